"""The statements that every task goes through, on django-q2's queue and history tables, in SQL.

Django's ORM could express each of them, but takes longer to build them than the database takes to run them: with the ORM a
worker needs 1.8 times as long for a task. Everything else in `durable_queue.store` uses the ORM.

This module has the statements that both databases share; `sqlite/table.py` and `postgresql/table.py` have the rest,
and `moments.py` how moments go to the driver and come back.
"""

import json
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, ClassVar

from durable_queue.models import Worker
from durable_queue.states import held_from
from durable_queue.store.dialect import Dialect
from durable_queue.store.keys import Request, Stored
from durable_queue.store.leases import home_queue
from durable_queue.store.moments import Moments
from durable_queue.store.own_columns import QUEUED, WORKER, with_own_columns
from durable_queue.store.rows import (
    ATTEMPTS_TABLE,
    FIELDS,
    HISTORY_TABLE,
    LOST,
    PAUSED_TABLE,
    QUEUE_TABLE,
    WORKERS_TABLE,
    Claim,
    Claimed,
    HistoryRow,
)

HISTORY_COLUMNS = (*(f'"{field.column}"' for field in FIELDS), WORKER, QUEUED)


class Table(Moments):
    """The queue and its history over one connection. Each method raises django.db.Error."""

    has_one_writer: ClassVar[bool]  # whether only one connection at a time may be in a transaction that writes
    skip_locked: ClassVar[str]  # the end of a query for rows that are to be changed, and that nobody is about to change
    part: ClassVar[str]  # the part of a payload that the index on tasks' ids holds; queries must use the same expression
    dialect: ClassVar[Dialect]
    indexes_there: ClassVar[str]  # a query that takes the names of two tables; gives the indexes of each, as (table, index)
    columns_there: ClassVar[str]  # a query that takes a table's name, and gives those of its columns

    # What each database does in its own way.

    @abstractmethod
    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, with %s for each of its values; return the rows that it gives."""

    @abstractmethod
    def turn(self) -> AbstractContextManager[bool]:
        """Take a turn to write; gives whether this process got it. A process that hears of the write now comes after it."""

    @abstractmethod
    def give_way(self) -> None:
        """Before a task writes: let the queue's own writers go first, where only one can write at a time."""

    @abstractmethod
    def answers_within(self, seconds: float) -> AbstractContextManager[None]:
        """Have the next insert raise NoAnswerError when the database has not answered within so many seconds."""

    def waits_at_most(self, seconds: float) -> AbstractContextManager[None]:
        """The same, and a lock that is waited for counts too."""
        return self.answers_within(seconds)

    @abstractmethod
    def insert(self, queue: str, payloads: Sequence[str], due: datetime | None = None) -> int:
        """Insert rows by one statement, hence in one transaction; return the id of the last one.

        `due`: when they are due, by the clock that all hosts share. None: they are for now. A moment that has come: the same,
        with the place that they would have had if they had been queued then.
        """

    @abstractmethod
    def insert_announced(self, queue: str, payload: str) -> int:
        """Insert one row in a transaction of its own, and wake a worker before it is committed; return the row's id."""

    @abstractmethod
    def insert_requests(self, queue: str, requests: Sequence[Request]) -> list[Stored | None]:
        """Insert the tasks of requests in one transaction, save those whose key stands already.

        Return what stands under each key now, None for a request that has none. No two may have the same key. They must be
        sorted by it: two transactions that took the same keys in different orders could wait for each other.
        """

    @abstractmethod
    def claim(self, queue: str, asked: Claim) -> list[Claimed]:
        """Put the first due rows under a lease; return them. None if the queue is paused."""

    @abstractmethod
    def claim_at_once(self, worker: Worker, asked: Claim) -> list[Claimed]:
        """Claim, under the worker's lease if it has one, in a transaction of its own; return what `claim` does.

        Returns no rows if none is due, if the worker's row is gone, or if this worker doesn't get its turn. An idle cluster
        claims each task by this. It takes one round trip instead of eight on PostgreSQL, a third of the Python on SQLite.
        """

    @abstractmethod
    def until_due(self, queue: str) -> float | None:
        """Seconds until the first row is due, by the clock that all hosts share; None if none waits. Takes no lock.

        Infinite where one waits while the queue is paused (`durable_queue.store.pausing`).
        """

    @abstractmethod
    def let_commit_be_lost(self) -> None:
        """Let the current transaction's COMMIT return before it is on the disk, where that saves time."""

    @abstractmethod
    def among(self, ids: Collection[int]) -> tuple[str, object]:
        """The SQL condition that a column is among the ids, and its one value. The SQL is the same for any number of ids."""

    @abstractmethod
    def ended(self, parts: Mapping[str, str]) -> list[str]:
        """The ids of the tasks that are neither queued nor failed, by one snapshot. `parts`: each id's `lookup.part_of`."""

    @abstractmethod
    def lock_group(self, name: str) -> None:
        """Keep all other transactions from locking the group with this name, until the current one ends."""

    @abstractmethod
    def insert_history(self, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert history rows. `insert`: the statement, with {} in the place of the VALUES clause."""

    @abstractmethod
    def own_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The database's settings, changed for connections that carry only the queue's traffic."""

    @abstractmethod
    def task_settings(self, settings: dict[str, Any], *, threads: int) -> dict[str, Any]:
        """The database's settings, for the connections of a worker's tasks, which so many threads run."""

    @abstractmethod
    def has_narrow_ids(self) -> bool:
        """Whether the queue rows' ids end at 2,147,483,647."""

    @abstractmethod
    def widen_ids(self) -> None:
        """Make them go on for ever, unless they do, or that would keep others waiting for long."""

    @abstractmethod
    def has_open_transaction(self) -> bool:
        """Whether the driver's connection, which must be open, is in a transaction."""

    # What both databases do alike.

    def is_paused(self, queue: str) -> bool:
        """Whether the queue is paused, or the one that it belongs to."""
        return bool(self.run(f"SELECT 1 FROM {PAUSED_TABLE} WHERE queue = %s", (home_queue(queue),)))  # noqa: S608

    def fair_share(self, queue: str, most: int) -> int:
        """How many of the rows that are due or held each worker has, if all workers have as many; at most `most`."""
        workers = f"(SELECT count(*) FROM {WORKERS_TABLE} WHERE queue = %s)"  # noqa: S608
        rows = f"SELECT 1 FROM {QUEUE_TABLE} WHERE key = %s AND lock"  # noqa: S608
        due, held = (f"(SELECT count(*) FROM ({rows} {after} %s LIMIT %s * {workers}) AS found)" for after in ("<=", ">"))  # noqa: S608
        values = [value for moment in (datetime.now(UTC), held_from()) for value in (queue, self.moment(moment), most, queue)]
        ((there, count),) = self.run(f"SELECT {due} + {held}, {workers}", (*values, queue))
        return min(most, -(-int(there) // int(count))) if count else most

    def delete(self, *, lease: datetime, ids: Collection[int]) -> set[int]:
        """Delete those of the rows that the lease still holds; return their ids."""
        if not ids:
            return set()
        among, value = self.among(ids)
        sql = f"DELETE FROM {QUEUE_TABLE} WHERE lock = %s AND id {among} RETURNING id"  # noqa: S608
        return {row for (row,) in self.run(sql, (self.moment(lease), value))}

    def put_back(
        self, *, lease: datetime, row: int, lock: datetime, queue: str | None = None, payload: str | None = None
    ) -> bool:
        """Let go of a row: `lock` says when it is due (`durable_queue.states`). Return whether the lease held it.

        `queue`, `payload`: others than it had, if they are given.
        """
        values = {"lock": self.moment(lock)} | ({"key": queue} if queue else {}) | ({"payload": payload} if payload else {})
        columns = ", ".join(f"{column} = %s" for column in values)
        sql = f"UPDATE {QUEUE_TABLE} SET {columns} WHERE lock = %s AND id = %s RETURNING id"  # noqa: S608
        return bool(self.run(sql, (*values.values(), self.moment(lease), row)))

    def change_lease(
        self,
        worker: int,
        *,
        old: datetime | None,
        new: datetime | None,
        due: datetime | None,
        named: Mapping[str, Any] | None = None,
    ) -> bool:
        """Set a worker's lease, when its first row was due, and the tasks that its row names, if they are given.

        Return whether the worker still held the old lease.
        """
        values = [moment and self.moment(moment) for moment in (new, due)]
        names = ""
        if named is not None:
            names = ", in_hand = %s"
            values.append(json.dumps(named))
        sql = f"UPDATE {WORKERS_TABLE} SET lease = %s, lease_due = %s{names} WHERE id = %s AND lease "  # noqa: S608
        if old is None:
            return bool(self.run(f"{sql} IS NULL RETURNING id", (*values, worker)))
        return bool(self.run(f"{sql} = %s RETURNING id", (*values, worker, self.moment(old))))

    def is_held(self, row: int, lease: datetime) -> bool:
        """Whether the lease with this name still holds the queue row with this id."""
        return bool(self.run(f"SELECT 1 FROM {QUEUE_TABLE} WHERE id = %s AND lock = %s", (row, self.moment(lease))))  # noqa: S608

    def count_attempts(self, rows: Sequence[tuple[int, Any, str]]) -> list[Any]:
        """Add to each held row the number of its attempts so far, and how many of them were lost.

        On PostgreSQL the claiming statement can't count them. It locks a row in its newest version, but reads other tables
        as they were when it began (https://www.postgresql.org/docs/current/transaction-iso.html#XACT-READ-COMMITTED).
        In between, another worker may have claimed the row and been killed, and its lease may have been freed.
        """
        if not rows:
            return []
        among, ids = self.among([row for row, *_ in rows])
        counted = "count(*), sum(CASE outcome WHEN %s THEN 1 ELSE 0 END)"
        sql = f"SELECT row, {counted} FROM {ATTEMPTS_TABLE} WHERE row {among} GROUP BY row"  # noqa: S608
        tried = {row: counts for row, *counts in self.run(sql, (LOST, ids))}
        return [(*row, *tried.get(row[0], (0, 0))) for row in rows]

    def save_history(self, history: Iterable[HistoryRow]) -> None:
        """Insert history rows. The row of a task that was retried overwrites the earlier one."""
        rows = [row.storable(self.moment) for row in history]
        if rows:
            with_own_columns(lambda has_own: self._insert_history(rows if has_own else [row[: len(FIELDS)] for row in rows]))

    def _insert_history(self, rows: Sequence[tuple[Any, ...]]) -> None:
        names = HISTORY_COLUMNS[: len(rows[0])]
        update = ", ".join(f"{name} = excluded.{name}" for name in names)
        insert = f"INSERT INTO {HISTORY_TABLE} ({', '.join(names)}) {{}} ON CONFLICT (id) DO UPDATE SET {update}"
        self.insert_history(insert, rows)
