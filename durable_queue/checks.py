"""System checks of what `Q_CLUSTER` says, before a worker stumbles over it, and of the database that holds the queue."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.db import connections
from django_q.conf import Conf
from django_q.models import OrmQ

from durable_queue.conf import cluster_conf
from durable_queue.store import indexes
from durable_queue.store.databases import table_of
from durable_queue.store.leases import alone_queue
from durable_queue.store.rows import QUEUE_TABLE
from durable_queue.task.policy import DEFAULT, RetryPolicy
from durable_queue.upkeep.clock import told

# The releases that mended the WAL-reset bug, by the branch that they belong to; from the last one on, all have.
SQLITE_MENDED = ((3, 44, 6), (3, 50, 7), (3, 51, 3))

NAME_LENGTH = OrmQ._meta.get_field("key").max_length or 100
BROKER = "durable_queue.store.broker.Broker"


def check_q_cluster(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The broker must be ours, for others know no leases; numbers and policies must make sense."""
    return [
        Error(f"Q_CLUSTER[{key!r}] {problem}.", hint=hint, id=f"durable_queue.E00{number}")
        for number, key, problem, hint in _problems()
    ]


def _problems() -> Iterator[tuple[int, str, str, str]]:
    if Conf.conf.get("broker_class") != BROKER:
        yield 1, "broker_class", "is not the broker that `manage.py qcluster` works with", f"Set it to {BROKER!r}."
    for key, least in (
        ("grace", 0),
        ("claim", 1),
        ("threads", 1),
        ("coroutines", 1),
        ("connections", 1),
        ("backoff_base", 0),
        ("backoff_factor", 1),
        ("backoff_ceiling", 0),
        ("history_days", 1),
    ):
        value = getattr(cluster_conf, key)
        if not isinstance(value, int | float) or value < least:
            yield 2, key, f"is {value!r}", f"Set it to a number from {least} on."
    names = ", ".join(field.name for field in fields(RetryPolicy))
    for path, policy in cluster_conf.retry_policies.items():
        try:
            replace(DEFAULT, **policy)
        except (TypeError, ValueError):
            yield 3, "retry_policies", f"has {policy!r} for {path}", f"A policy may say {names}: numbers from 0 on."
    for key in ("claim", "threads", "coroutines", "connections"):
        value = getattr(cluster_conf, key)
        if isinstance(value, float | bool):
            yield 2, key, f"is {value!r}", "Set it to a whole number."
    if not isinstance(cluster_conf.alone, list | tuple | set) or not all(isinstance(path, str) for path in cluster_conf.alone):
        yield 5, "alone", f"is {cluster_conf.alone!r}", 'Set it to a list of dotted paths: ["app.tasks.function"].'
    if len(alone_queue(Conf.CLUSTER_NAME)) > NAME_LENGTH:
        longest = NAME_LENGTH - len(alone_queue(""))
        yield 6, "name", "is too long", f"Shorten it to {longest} characters: the tasks that run alone need the others."
    if Conf.conf.get("compress"):
        yield 4, "compress", "is on", "Remove it: a compressed task can't be found by its id."


def check_sqlite(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """A commit must not be lost to a checkpoint (https://www.sqlite.org/wal.html#walresetbug)."""
    if not table_of(connections[Conf.ORM or "default"]).has_one_writer or is_mended(sqlite3.sqlite_version_info):
        return []
    reason = f"SQLite {sqlite3.sqlite_version} may, very rarely, lose a commit that comes in the instant of a checkpoint."
    remedy = "Install SQLite 3.51.3 or later: `pip install pysqlite3` brings one, where it can be had as a wheel."
    return [Warning(reason, hint=remedy, id="durable_queue.W001")]


def check_indexes(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Without its indexes the queue works, but reads whole tables for each task."""
    remedy = "`manage.py migrate` makes them again, even where there is nothing to migrate."
    lost = {using: ", ".join(indexes.missing(connections[using])) for using in databases or ()}
    return [
        Warning(f"The database {using!r} has lost indexes: {names}.", hint=remedy, id="durable_queue.W002")
        for using, names in lost.items()
        if names
    ]


def check_ids(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Once the rows' ids are used up, no task can be queued any more."""
    remedy = "Run `manage.py migrate` while fewer than a million tasks are queued, and no transaction holds the table."
    reason = f"ends with task 2,147,483,647: the ids in {QUEUE_TABLE} are 32 bits wide."
    return [
        Warning(f"The queue in the database {using!r} {reason}", hint=remedy, id="durable_queue.W003")
        for using in databases or ()
        if table_of(connections[using]).has_narrow_ids()
    ]


def check_clock(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Retries and schedules go by the database's clock, and people by this host's."""
    remedy = "Have both hosts' clocks set by NTP. Tasks that are for now run at once, whatever the clocks say."
    clocks = {using: table_of(connections[using]).clock_ahead() for using in databases or ()}
    return [
        Warning(f"The clock of the database {using!r} is {told(ahead)}.", hint=remedy, id="durable_queue.W004")
        for using, ahead in clocks.items()
        if ahead
    ]


def is_mended(version: tuple[int, int, int]) -> bool:
    """Whether a release of SQLite is without the WAL-reset bug."""
    return version >= SQLITE_MENDED[-1] or any(mended <= version < (*mended[:2], 99) for mended in SQLITE_MENDED)
