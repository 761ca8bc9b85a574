"""The statements on SQLite, where one connection writes at a time."""

import functools
import json
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import chain
from operator import itemgetter
from typing import Any

from django.db import transaction

from durable_queue.models import Worker
from durable_queue.states import FOR_NOW_UNTIL, for_now, is_held
from durable_queue.store import wakeup
from durable_queue.store.keys import Request, Stored, new_rows
from durable_queue.store.leases import home_queue
from durable_queue.store.rows import (
    HISTORY_TABLE,
    LOST,
    QUEUE_TABLE,
    Claim,
    Claimed,
)
from durable_queue.store.sqlite import claims, keys
from durable_queue.store.sqlite.dialect import SQLiteDialect
from durable_queue.store.sqlite.turns import Turn, give_way
from durable_queue.store.table import Table

LOCK_WAIT = 30  # seconds that a task waits for the write lock; a web process, whose client waits, has less


class SQLiteTable(Table):
    """See `Table`."""

    has_one_writer = True
    skip_locked = ""
    part = 'substr("payload", 29, 40)'
    dialect = SQLiteDialect()
    columns_there = "SELECT name FROM pragma_table_info(%s)"
    indexes_there = "SELECT tbl_name, name FROM sqlite_master WHERE tbl_name IN (%s, %s)"

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._run(sql.replace("%s", "?"), values)[0]

    def _run(self, sql: str, values: Sequence[Any]) -> tuple[list[Any], int]:
        """Run one statement on the driver's own connection; return the rows, and the id of the last inserted one.

        Django's cursor would add 12 µs to the 3 to 20 µs that SQLite takes.
        """
        connection = self.connection
        connection.ensure_connection()
        connection.validate_no_broken_transaction()
        with connection.wrap_database_errors:
            cursor = connection.connection.execute(sql, values)
            return cursor.fetchall(), cursor.lastrowid

    def turn(self) -> Turn:
        return Turn(self.connection)

    def give_way(self) -> None:
        give_way()

    def answers_within(self, seconds: float) -> AbstractContextManager[None]:
        """Its locks have a limit of their own."""
        return nullcontext()

    @contextmanager
    def waits_at_most(self, seconds: float) -> Iterator[None]:
        """Have any statement wait so long for a lock, unless the connection's own limit is shorter."""
        ((own,),) = self.run("PRAGMA busy_timeout")
        self.run(f"PRAGMA busy_timeout = {min(own, 1000 * seconds):.0f}")
        try:
            yield
        finally:
            self.run(f"PRAGMA busy_timeout = {own}")

    def insert(self, queue: str, payloads: Sequence[str], due: datetime | None = None) -> int:
        lock = self._lock_of(due)
        values = [value for payload in payloads for value in (queue, payload, lock)]
        # Without RETURNING: with it, the commit would wait until the rows are fetched.
        return self._run(_insert(len(payloads)), values)[1]

    def _lock_of(self, due: datetime | None) -> str:
        now = datetime.now(UTC)
        return self.moment(due if due and due > now else for_now(due or now))

    def insert_announced(self, queue: str, payload: str) -> int:
        """Insert one row, by an announced commit: the woken worker waits for its own turn, hence for this commit."""
        with self.turn() as is_ours:
            started = time.monotonic()
            if is_ours:
                wakeup.wake(queue, announced=1)  # the number only says that there is a commit to wait for
            row = self.insert(queue, [payload])
        if not is_ours or wakeup.is_late(started):
            wakeup.wake(queue)
        return row

    def insert_requests(self, queue: str, requests: Sequence[Request]) -> list[Stored | None]:
        with transaction.atomic(using=self.connection.alias):
            stored = keys.take_keys(self, requests)
            if rows := new_rows(requests, stored):
                values = ((queue, payload, self._lock_of(due)) for payload, due in rows)
                self._run(_insert(len(rows)), [*chain.from_iterable(values)])
        return stored

    def claim(self, queue: str, asked: Claim) -> list[Claimed]:
        connection = self.connection
        connection.ensure_connection()
        with connection.wrap_database_errors:
            rows, hold = self._find(connection.connection, queue, asked)
        if rows:
            self.run(*hold)
        return rows

    def _find(self, driver: Any, queue: str, asked: Claim) -> tuple[list[Claimed], tuple[str, Sequence[Any]]]:
        """The first due rows; and the statement, with its values, that puts them under the lease."""
        until, now, name = self.moment(FOR_NOW_UNTIL), self.moment(asked.now), self.moment(asked.lease)
        with closing(driver.execute(claims.due(asked.limit), (LOST, queue, now, home_queue(queue)))) as found:
            rows, are_all = claims.bounded(found, asked.limit)
        if are_all:  # first those that are for now, then those whose delay is over
            due = self.claimed(rows)
            if rows and rows[-1][1] > until:
                due.sort(key=itemgetter(1, 0))
            return due, claims.hold(name, queue, rows)
        sql = claims.due(asked.limit, later=True)
        with closing(driver.execute(sql, (LOST, queue, until, now, home_queue(queue)))) as found:
            later, _ = claims.bounded(found, asked.limit)
        if later:  # each row has its place among those that were for now
            both = self.claimed([*(row for row in rows if row[1] < until), *later])
            due, _ = claims.bounded(sorted(both, key=itemgetter(1, 0))[: asked.limit], asked.limit)
            return due, claims.hold_these(name, due)
        return self.claimed(rows), claims.hold(name, queue, rows)

    def claim_at_once(self, worker: Worker, asked: Claim) -> list[Claimed]:
        with self.turn() as is_ours:
            if not is_ours:
                return []  # the announcing process may be waiting for SQLite's lock: don't wait for that as well
            connection = self.connection
            if connection.connection is None:
                connection.ensure_connection()
            with connection.wrap_database_errors, connection.connection as driver:  # it commits or rolls back
                driver.execute("BEGIN IMMEDIATE")
                rows, hold = self._find(driver, worker.queue, asked)
                if not rows:
                    return []
                name, due = self.moment(asked.lease), self.moment(rows[0][1])
                if not driver.execute(claims.TAKE_LEASE, (name, due, worker.id, name if worker.lease else None)).rowcount:
                    return []
                driver.execute(*hold)
        return rows

    def until_due(self, queue: str) -> float | None:
        now = datetime.now(UTC)
        for lock, is_due, is_paused in self.run(claims.FIRST, (self.moment(now), home_queue(queue), queue)):
            due = now if is_due else self.read(lock)
            if due and not is_held(due):
                return math.inf if is_paused else max(0.0, (due - now).total_seconds())
        return None

    def let_commit_be_lost(self) -> None:
        """Nothing to do: a commit does not wait for the disk here, only a checkpoint does."""

    def among(self, ids: Collection[int]) -> tuple[str, object]:
        # https://www.sqlite.org/json1.html#jeach. The driver keeps up to a hundred different statements prepared.
        return "IN (SELECT value FROM json_each(%s))", str(list(ids))

    def ended(self, parts: Mapping[str, str]) -> list[str]:
        # INDEXED BY names the index of failed tasks. SQLite would choose the primary key's, since that is unique.
        sql = f"""
            SELECT asked.key FROM json_each(%s) AS asked
            WHERE (SELECT count(*) FROM {QUEUE_TABLE} WHERE {self.part} = asked.value) = 0 AND (
                SELECT count(*) FROM {HISTORY_TABLE} AS done INDEXED BY cluster_failed
                WHERE done.id = asked.key AND NOT done.success
            ) = 0
        """  # noqa: S608
        return [task_id for (task_id,) in self.run(sql, [json.dumps(parts)])]

    def lock_group(self, name: str) -> None:
        """Nothing to lock: the current transaction is the only one that writes."""

    def moment(self, moment: datetime) -> str:
        """The moment as text, in the connection's time zone: this is how Django stores it on SQLite."""
        if moment.tzinfo is UTC and self.connection.timezone is UTC:
            return str(moment)[: -len("+00:00")]
        return str(moment.astimezone(self.connection.timezone).replace(tzinfo=None))

    def clock_ahead(self) -> timedelta:
        """They are one: all processes are on this host."""
        return timedelta(0)

    def insert_history(self, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(insert.format(f"VALUES ({', '.join(['%s'] * len(rows[0]))})"), rows)

    def own_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return settings

    def task_settings(self, settings: dict[str, Any], *, threads: int) -> dict[str, Any]:
        options = settings["OPTIONS"]
        return settings | {"OPTIONS": options | {"timeout": max(options.get("timeout", 0), LOCK_WAIT)}}

    def has_narrow_ids(self) -> bool:
        """No: an integer has 64 bits (https://www.sqlite.org/datatype3.html)."""
        return False

    def widen_ids(self) -> None:
        """Nothing to do."""

    def has_open_transaction(self) -> bool:
        return bool(self.connection.connection.in_transaction)


@functools.cache
def _insert(rows: int) -> str:
    return f"INSERT INTO {QUEUE_TABLE} (key, payload, lock) VALUES {', '.join(['(?, ?, ?)'] * rows)}"  # noqa: S608
