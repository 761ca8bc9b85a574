"""SQLite's write lock, as tasks use it: of a worker's tasks that wait for it, one asks at a time; a long hold is named.

A transaction holds it from its begin with `"transaction_mode": "IMMEDIATE"`, else from its first write.
"""

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django_q.conf import logger

from durable_queue.store.databases import table_of
from durable_queue.task.uninterrupted import uninterrupted
from durable_queue.work import task_connections

LONG = 1.0  # seconds
LOOK = 0.05  # seconds between two looks at the limit of one that waits
LONGEST_WAIT = 30.0  # seconds; then a task looks for itself
TAKES_LOCK = ("BEGIN", "INSERT", "UPDATE", "DELETE", "REPLACE")  # how a statement begins that may wait for the lock


def prepare_worker() -> None:
    """Have each connection that is opened in this process from now on wait in line, save for the queue's own."""
    line = _Line()
    os.register_at_fork(after_in_child=line.renew)
    connection_created.connect(line.join, weak=False)


class _Line:
    """Tasks that wait for the write lock line up, and let the queue's own writers go first.

    SQLite's own waiting is a look every 1 to 100 ms (https://www.sqlite.org/c3ref/busy_timeout.html). While forty threads look,
    the one POST that waits as well may have no luck within its two seconds.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """In a forked child: none of its parent's threads is there."""
        self._lines: defaultdict[str, deque[threading.Lock]] = defaultdict(deque)  # by the database's alias; the first may ask
        self._lock = threading.Lock()

    def join(self, connection: BaseDatabaseWrapper, **_: object) -> None:
        """A new connection lines up."""
        with suppress(LookupError):  # a database that the queue knows nothing about
            if table_of(connection).has_one_writer:
                task_connections.wrap(connection, self._wait)

    def _wait(self, execute: Callable[..., Any], sql: str, params: object, many: bool, context: dict[str, Any]) -> Any:
        connection = context["connection"]
        table = table_of(connection)
        # Within a transaction this thread may hold the lock: then it must not wait for one that waits for it.
        if not sql.startswith(TAKES_LOCK) or table.has_open_transaction():
            return execute(sql, params, many, context)
        with uninterrupted() as limit:  # else it might never leave the line
            place = self._stand_in(line := self._lines[connection.alias])
            try:
                deadline = time.monotonic() + LONGEST_WAIT
                while not place.acquire(timeout=LOOK) and not limit.is_over and time.monotonic() < deadline:
                    pass
                if not limit.is_over:
                    table.give_way()
                    return execute(sql, params, many, context)
            finally:
                self._leave(line, place)
        raise AssertionError("it was interrupted")

    def _stand_in(self, line: deque[threading.Lock]) -> threading.Lock:
        place = threading.Lock()
        with self._lock:
            if line:
                place.acquire()  # until the one before it leaves
            line.append(place)
        return place

    def _leave(self, line: deque[threading.Lock], place: threading.Lock) -> None:
        with self._lock:
            was_first = line[0] is place
            line.remove(place)
            if was_first and line:
                line[0].release()


@dataclass(eq=False)
class Holder:
    """A thread that runs tasks."""

    task: str = ""  # the name of the one that it runs
    transaction: object = None  # the one in which it was seen
    since: float = 0.0  # when (monotonic) that was
    connections: list[BaseDatabaseWrapper] = field(default_factory=list)


class WriteLock:
    """The threads that may hold it."""

    def __init__(self) -> None:
        self._holders: list[Holder] = []

    def join(self) -> Holder:
        """The calling thread may hold the lock from now on."""
        holder = Holder(connections=list(task_connections.with_one_writer()))
        self._holders.append(holder)
        return holder

    def leave(self, holder: Holder) -> None:
        """A thread is about to end."""
        self._holders.remove(holder)

    def look(self, now: float) -> None:
        """Name those that have been in the same transaction for long, once for each. `now`: monotonic."""
        for holder in list(self._holders):
            blocks = [connection.atomic_blocks[0] for connection in holder.connections if connection.atomic_blocks]
            transaction = blocks[0] if blocks else None
            if transaction is not holder.transaction:
                holder.transaction, holder.since = transaction, now
            elif transaction and 0 < holder.since <= now - LONG:
                held = now - holder.since
                logger.warning("%r has held SQLite's write lock for %.1f s: no other process can write", holder.task, held)
                holder.since = 0.0
