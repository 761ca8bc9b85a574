"""The statements that every task goes through, on django-q2's queue and history tables, in SQL.

Django's ORM can say each of them, but takes longer to build them than the database takes to run them: with the ORM a
worker needs 1.8 times as long for a task. All else in this package goes through the ORM.

Here stands what both databases do alike. The rest is in `sqlite/table.py` and `postgresql/table.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, ClassVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now

from durable_queue.models import Worker
from durable_queue.store.rows import (
    ATTEMPTS,
    FIELDS,
    HISTORY,
    LENGTHS,
    LOST,
    QUEUE,
    WORKERS,
    Claim,
    Claimed,
    HistoryRow,
    pickled,
    text_of,
)


class Table(ABC):
    """The queue and its history over one connection. Each method raises django.db.Error."""

    has_one_writer: ClassVar[bool]  # whether one connection at a time may be in a transaction that writes
    part: ClassVar[str]  # what of a payload the index on tasks' ids holds; queries must say it in the same words
    indexes_there: ClassVar[str]  # a query with two tables' names: each of them that is there, and its indexes' names

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection

    # What the databases do each in their way.

    @abstractmethod
    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, its values marked by %s; return the rows that it gives back."""

    @abstractmethod
    def turn(self) -> AbstractContextManager[bool]:
        """This process's turn to write; gives whether it is. A process that is told of the write now comes after it."""

    @abstractmethod
    def insert(self, queue: str, payloads: Sequence[str], due: datetime) -> int:
        """Put rows into the queue, by one statement and so in one transaction; return the last one's id."""

    @abstractmethod
    def insert_announced(self, queue: str, payload: str) -> int:
        """Put one row into the queue in a transaction of its own; return its id. Wakes a worker before it is committed."""

    @abstractmethod
    def claim(self, queue: str, asked: Claim) -> list[Claimed]:
        """Put the first rows that are due under a lease; return them."""

    @abstractmethod
    def claim_at_once(self, worker: Worker, asked: Claim) -> list[Claimed]:
        """Claim, under the worker's lease if it has one, in a transaction of its own; return what `claim` does.

        Nothing when nothing is due, the worker's row is gone, or it isn't this worker's turn. This is what an idle cluster
        does with a task before it runs: on PostgreSQL one round trip instead of eight, on SQLite a third of the Python.
        """

    @abstractmethod
    def let_commit_be_lost(self) -> None:
        """Of the transaction at hand: it need not be on the disk before it counts, where that takes time."""

    @abstractmethod
    def among(self, ids: Collection[int]) -> tuple[str, object]:
        """The condition that a column is among the ids, and its one value: the same statement for any number of ids."""

    @abstractmethod
    def ended(self, parts: Mapping[str, str]) -> list[str]:
        """Of the task ids, each with its part of a payload, those neither in the queue nor failed. By one snapshot."""

    @abstractmethod
    def lock_group(self, name: str) -> None:
        """Until the transaction at hand ends, keep all others from locking the group of this name."""

    @abstractmethod
    def moment(self, moment: datetime) -> Any:
        """The moment as the driver takes it, by Django's `adapt_datetimefield_value`."""

    @abstractmethod
    def now(self) -> datetime | Now:
        """The moment that hosts agree on."""

    @abstractmethod
    def insert_history(self, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows of the history. `insert`: the statement, with {} for what is to be inserted."""

    @abstractmethod
    def own_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The database's settings, for connections that carry nothing but the queue's traffic."""

    @abstractmethod
    def task_settings(self, settings: dict[str, Any], *, threads: int) -> dict[str, Any]:
        """The database's settings, for the connections of a worker's tasks, which so many threads run."""

    # What they do alike.

    def next_due(self, queue: str) -> datetime | None:
        """When the first row is due, or till when it is held; None when there is no row."""
        sql = f"SELECT lock FROM {QUEUE} WHERE key = %s AND lock IS NOT NULL ORDER BY lock, id LIMIT 1"  # noqa: S608
        rows = self.run(sql, (queue,))
        return self.aware(rows[0][0]) if rows else None

    def delete(self, *, lease: datetime, ids: Collection[int]) -> set[int]:
        """Take those of the rows that the lease still holds out of the queue; return their ids."""
        if not ids:
            return set()
        among, value = self.among(ids)
        sql = f"DELETE FROM {QUEUE} WHERE lock = %s AND id {among} RETURNING id"  # noqa: S608
        return {row for (row,) in self.run(sql, (self.moment(lease), value))}

    def put_back(self, *, lease: datetime, row: int, due: datetime, queue: str | None = None) -> bool:
        """Let go of a row, to be run when it is due, in another `queue` if one is given. Return whether the lease held it."""
        key, queues = (", key = %s", [queue]) if queue else ("", [])
        sql = f"UPDATE {QUEUE} SET lock = %s{key} WHERE lock = %s AND id = %s RETURNING id"  # noqa: S608
        return bool(self.run(sql, (self.moment(due), *queues, self.moment(lease), row)))

    def change_lease(self, worker: int, *, old: datetime | None, new: datetime | None, due: datetime | None) -> bool:
        """Note a worker's new lease, and when its first row was due; return whether the worker still held the old one."""
        values = [moment and self.moment(moment) for moment in (new, due)]
        sql = f"UPDATE {WORKERS} SET lease = %s, lease_due = %s WHERE id = %s AND lease "  # noqa: S608
        if old is None:
            return bool(self.run(f"{sql} IS NULL RETURNING id", (*values, worker)))
        return bool(self.run(f"{sql} = %s RETURNING id", (*values, worker, self.moment(old))))

    def is_held(self, row: int, lease: datetime) -> bool:
        """Whether the lease of this name still holds the queue row with this id."""
        return bool(self.run(f"SELECT 1 FROM {QUEUE} WHERE id = %s AND lock = %s", (row, self.moment(lease))))  # noqa: S608

    def count_attempts(self, rows: Sequence[tuple[int, Any, str]]) -> list[Any]:
        """Add to held rows how many attempts were made at each so far, and how many of them were lost.

        On PostgreSQL not in the statement that takes them: it locks a row as it is by then, and yet reads other tables as
        they were when it began (https://www.postgresql.org/docs/current/transaction-iso.html#XACT-READ-COMMITTED). Another
        worker may have taken the row in between, been killed, and its lease been freed.
        """
        if not rows:
            return []
        among, ids = self.among([row for row, *_ in rows])
        counted = "count(*), sum(CASE outcome WHEN %s THEN 1 ELSE 0 END)"
        sql = f"SELECT row, {counted} FROM {ATTEMPTS} WHERE row {among} GROUP BY row"  # noqa: S608
        tried = {row: counts for row, *counts in self.run(sql, (LOST, ids))}
        return [(*row, *tried.get(row[0], (0, 0))) for row in rows]

    def save_history(self, history: Iterable[HistoryRow]) -> None:
        """Insert history rows; one that is there already (of a task that was queued again) is overwritten."""
        rows = [self._storable(row) for row in history]
        if rows:
            quoted = [self.connection.ops.quote_name(field.column) for field in FIELDS]
            update = ", ".join(f"{name} = excluded.{name}" for name in quoted)
            insert = f"INSERT INTO {HISTORY} ({', '.join(quoted)}) {{}} ON CONFLICT (id) DO UPDATE SET {update}"
            self.insert_history(insert, rows)

    def _storable(self, row: HistoryRow) -> tuple[Any, ...]:
        """The row's values as both databases can store them, in the same order."""
        return (
            row.id,
            text_of(row.name, LENGTHS["name"]),
            text_of(row.func, LENGTHS["func"]),
            text_of(row.hook, LENGTHS["hook"]),
            pickled(row.args),
            pickled(row.kwargs),
            pickled(row.result),
            text_of(row.group, LENGTHS["group"]),
            text_of(row.cluster, LENGTHS["cluster"]),
            self.moment(row.started),
            self.moment(row.stopped),
            row.success,
            row.attempt_count,
        )

    def claimed(self, rows: Iterable[Any]) -> list[Any]:
        """Rows that were found, their due times as Python has them."""
        return [(row, self.aware(due), *rest) for row, due, *rest in rows]

    def aware(self, moment: datetime | str) -> datetime:
        """A moment that the driver has given back."""
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment)
        return moment if moment.tzinfo else moment.replace(tzinfo=self.connection.timezone)
