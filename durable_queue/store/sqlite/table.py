"""The statements on SQLite, where one connection writes at a time."""

import functools
import json
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django.utils import timezone

from durable_queue.models import Worker
from durable_queue.store import wakeup
from durable_queue.store.rows import ATTEMPTS, CLAIMED_BYTES, HISTORY, LOST, QUEUE, WORKERS, Claim, Claimed
from durable_queue.store.sqlite.turns import Turn
from durable_queue.store.table import Table

LOCK_WAIT = 30  # seconds that a task waits for the write lock; a web process, whose client waits, has less
_TAKE_LEASE = f"UPDATE {WORKERS} SET lease = ?, lease_due = ? WHERE id = ? AND lease IS ?"  # noqa: S608
# What is due was read in this transaction, the only one that writes: it still is all that comes up to its last row.
_HOLD = f"UPDATE {QUEUE} SET lock = ? WHERE key = ? AND (lock, id) <= (?, ?)"  # noqa: S608


class SQLiteTable(Table):
    """See `Table`."""

    has_one_writer = True
    part = 'substr("payload", 29, 40)'
    indexes_there = "SELECT tbl_name, name FROM sqlite_master WHERE tbl_name IN (%s, %s)"

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._run(sql.replace("%s", "?"), values)[0]

    def _run(self, sql: str, values: Sequence[Any]) -> tuple[list[Any], int]:
        """The rows, and the last inserted one's id. By the driver's connection: Django's cursor takes 12 µs, SQLite 3 to 20."""
        connection = self.connection
        connection.ensure_connection()
        connection.validate_no_broken_transaction()
        with connection.wrap_database_errors:
            cursor = connection.connection.execute(sql, values)
            return cursor.fetchall(), cursor.lastrowid

    def turn(self) -> Turn:
        return Turn(self.connection)

    def insert(self, queue: str, payloads: Sequence[str], due: datetime) -> int:
        moment = self.moment(due)
        values = [value for payload in payloads for value in (queue, payload, moment)]
        # Without RETURNING, which would leave the commit to the fetching of its rows.
        return self._run(_insert(len(payloads)), values)[1]

    def insert_announced(self, queue: str, payload: str) -> int:
        """The worker that is woken waits for its own turn, and so for this commit."""
        with self.turn() as is_ours:
            due, started = datetime.now(UTC), time.monotonic()  # before anybody can look for it
            if is_ours:
                wakeup.wake(queue, announced=1)  # of no meaning but that it is to be waited for
            row = self.insert(queue, [payload], due)
        if not is_ours or wakeup.is_late(started):
            wakeup.wake(queue)
        return row

    def claim(self, queue: str, asked: Claim) -> list[Claimed]:
        connection = self.connection
        connection.ensure_connection()
        with connection.wrap_database_errors:
            rows = _fetch(connection.connection, asked.limit, (LOST, queue, self.moment(asked.now)))
        if rows:
            last, last_due, *_ = rows[-1]
            self.run(_HOLD, (self.moment(asked.lease), queue, last_due, last))
        return self.claimed(rows)

    def claim_at_once(self, worker: Worker, asked: Claim) -> list[Claimed]:
        with self.turn() as is_ours:
            if not is_ours:
                return []  # what was announced waits for SQLite's lock, maybe: not to wait for that as well
            connection = self.connection
            if connection.connection is None:
                connection.ensure_connection()
            with connection.wrap_database_errors, connection.connection as driver:  # which commits, or rolls back
                driver.execute("BEGIN IMMEDIATE")
                values = (LOST, worker.queue, self.moment(asked.now))
                due = _fetch(driver, asked.limit, values)
                if not due:
                    return []
                name = self.moment(asked.lease)
                held, first = None, due[0][1]
                if worker.lease is not None:
                    held, first = name, self.moment(worker.lease_due or asked.now)
                if not driver.execute(_TAKE_LEASE, (name, first, worker.id, held)).rowcount:
                    return []
                last, last_due, *_ = due[-1]
                driver.execute(_HOLD, (name, worker.queue, last_due, last))
        return self.claimed(due)

    def let_commit_be_lost(self) -> None:
        """A commit takes no time here: the disk is waited for at checkpoints."""

    def among(self, ids: Collection[int]) -> tuple[str, object]:
        # https://www.sqlite.org/json1.html#jeach. The driver keeps each statement prepared that it has seen, up to a hundred.
        return "IN (SELECT value FROM json_each(%s))", str(list(ids))

    def ended(self, parts: Mapping[str, str]) -> list[str]:
        # INDEXED BY: the index of the failed ones, and not the primary key's, which SQLite takes for better since it is unique.
        sql = f"""
            SELECT asked.key FROM json_each(%s) AS asked
            WHERE (SELECT count(*) FROM {QUEUE} WHERE {self.part} = asked.value) = 0 AND (
                SELECT count(*) FROM {HISTORY} AS done INDEXED BY cluster_failed WHERE done.id = asked.key AND NOT done.success
            ) = 0
        """  # noqa: S608
        return [task_id for (task_id,) in self.run(sql, [json.dumps(parts)])]

    def lock_group(self, name: str) -> None:
        """The transaction is the only one that writes."""

    def moment(self, moment: datetime) -> str:
        """SQLite keeps moments as text, in the connection's time zone."""
        if moment.tzinfo is UTC and self.connection.timezone is UTC:
            return str(moment)[: -len("+00:00")]
        return str(moment.astimezone(self.connection.timezone).replace(tzinfo=None))

    def now(self) -> datetime:
        return timezone.now()

    def insert_history(self, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(insert.format(f"VALUES ({', '.join(['%s'] * len(rows[0]))})"), rows)

    def own_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return settings

    def task_settings(self, settings: dict[str, Any], *, threads: int) -> dict[str, Any]:
        options = settings["OPTIONS"]
        return settings | {"OPTIONS": options | {"timeout": max(options.get("timeout", 0), LOCK_WAIT)}}


@functools.cache
def _insert(rows: int) -> str:
    return f"INSERT INTO {QUEUE} (key, payload, lock) VALUES {', '.join(['(?, ?, ?)'] * rows)}"  # noqa: S608


def _fetch(driver: Any, limit: int, values: Sequence[Any]) -> list[Any]:
    """The first rows that are due: so many, or fewer if their payloads are long. SQLite reads each as it is asked for."""
    cursor = driver.execute(_due(limit), values)
    if limit == 1:
        return list(cursor.fetchall())
    rows: list[Any] = []
    size = 0
    for row in cursor:
        size += len(row[2])
        if rows and size > CLAIMED_BYTES:
            break
        rows.append(row)
    cursor.close()
    return rows


@functools.cache
def _due(limit: int) -> str:
    # `lock` as text, so that the driver calls no Python for each; and the limit as a literal: newer versions look at the
    # value of one that is bound, and plan the statement again for each (`sqlite3ExprIsInteger` in their expr.c), which
    # takes longer than all else of a claim.
    made = f"SELECT count(*) FROM {ATTEMPTS} WHERE row = {QUEUE}.id"  # noqa: S608
    due = f"SELECT id, CAST(lock AS TEXT), payload, ({made}), ({made} AND outcome = ?) FROM {QUEUE}"  # noqa: S608
    return f"{due} WHERE key = ? AND lock <= ? ORDER BY lock, id LIMIT {limit:d}"
