"""System checks of what `Q_CLUSTER` says, before a worker stumbles over it, and of the database that holds the queue."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.db import connections, router
from django_q.conf import Conf
from django_q.models import OrmQ

from durable_queue.conf import cluster_conf
from durable_queue.store import indexes, queues
from durable_queue.store.databases import is_supported, table_of
from durable_queue.store.leases import alone_queue
from durable_queue.store.rows import QUEUE_TABLE, WORKERS_TABLE
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
    if (most := cluster_conf.max_backlog) is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        yield 2, "max_backlog", f"is {most!r}", "Set it to a whole number from 1 on, or to None."
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


def check_database(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Workers, and those who ask for results, must meet in one database."""
    using = Conf.ORM or "default"
    if using not in connections:
        remedy = f"Add it to DATABASES, or name one of these: {', '.join(connections)}."
        return [Error(f"Q_CLUSTER['orm'] is {using!r}, which DATABASES does not have.", hint=remedy, id="durable_queue.E007")]
    if not is_supported(using):
        said = f"Q_CLUSTER['orm'] is {using!r}, which is a database of {connections[using].display_name}."
        return [Error(said, hint="Name one of SQLite or of PostgreSQL.", id="durable_queue.E007")]
    models = [model for app in ("django_q", "durable_queue") for model in apps.get_app_config(app).get_models()]
    written, read = ({of(model) for model in models} - {using} for of in (router.db_for_write, router.db_for_read))
    remedy = (
        f"Add a router to DATABASE_ROUTERS whose db_for_read and db_for_write return {using!r} for the apps django_q and "
        "durable_queue, or name Django's own choice in Q_CLUSTER['orm']."
    )
    reason = f"Q_CLUSTER['orm'] is {using!r}, but Django's routers {{}} the queue's tables in {{}}"
    if written:
        said = reason.format("write", ", ".join(sorted(written)))
        return [Error(f"{said}: tasks would run, and their results never be found.", hint=remedy, id="durable_queue.E007")]
    if read:
        said = reason.format("read", ", ".join(sorted(read)))
        return [Warning(f"{said}: results are found only if that is a replica.", hint=remedy, id="durable_queue.W005")]
    return []


def check_time_zones(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Moments without a zone can't be compared with the moments of other hosts."""
    if settings.USE_TZ:
        return []
    remedy = "Set USE_TZ = True. Django's documentation says how to move an old project: topics/i18n/timezones."
    return [Error("USE_TZ is False: the queue's moments need a time zone.", hint=remedy, id="durable_queue.E008")]


def check_sqlite(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """A commit must not be lost to a checkpoint (https://www.sqlite.org/wal.html#walresetbug)."""
    using = Conf.ORM or "default"
    if not is_supported(using) or not table_of(connections[using]).has_one_writer or is_mended(sqlite3.sqlite_version_info):
        return []
    reason = f"SQLite {sqlite3.sqlite_version} may, very rarely, lose a commit that comes in the instant of a checkpoint."
    remedy = "Install SQLite 3.51.3 or later: `pip install pysqlite3` brings one, where it can be had as a wheel."
    return [Warning(reason, hint=remedy, id="durable_queue.W001")]


def check_indexes(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Without its indexes the queue works, but reads whole tables for each task; without its columns it tells less."""
    remedy = "`manage.py migrate` makes them again, even where there is nothing to migrate."
    lost = {using: ", ".join(indexes.missing(connections[using])) for using in filter(is_supported, databases or ())}
    return [
        Warning(f"The database {using!r} has lost indexes or columns: {names}.", hint=remedy, id="durable_queue.W002")
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
        for using in filter(is_supported, databases or ())
        if table_of(connections[using]).has_narrow_ids()
    ]


def check_queues(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """A task in a queue that nobody serves waits for ever. The queues of this project may start after its checks."""
    remedy = (
        "Serve it: `manage.py qcluster --name NAME`, with its name in Q_CLUSTER['ALT_CLUSTERS']. "
        "Or delete these tasks: the admin's list of queued tasks has a filter for them."
    )
    return [
        Warning(f"{queues.told(queue, count)}, and which Q_CLUSTER does not name.", hint=remedy, id="durable_queue.W004")
        for using in filter(is_supported, databases or ())
        if {QUEUE_TABLE, WORKERS_TABLE} <= set(connections[using].introspection.table_names())
        for queue, count in queues.unserved(using).items()
        if queue not in queues.configured()
    ]


def check_clock(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Retries and schedules go by the database's clock, and people by this host's."""
    remedy = "Have both hosts' clocks set by NTP. Tasks that are for now run at once, whatever the clocks say."
    clocks = {using: table_of(connections[using]).clock_ahead() for using in filter(is_supported, databases or ())}
    return [
        Warning(f"The clock of the database {using!r} is {told(ahead)}.", hint=remedy, id="durable_queue.W006")
        for using, ahead in clocks.items()
        if ahead
    ]


def is_mended(version: tuple[int, int, int]) -> bool:
    """Whether a release of SQLite is without the WAL-reset bug."""
    return version >= SQLITE_MENDED[-1] or any(mended <= version < (*mended[:2], 99) for mended in SQLITE_MENDED)
