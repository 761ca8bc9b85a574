"""Names the tasks that hold SQLite's write lock for long: they keep every other process from writing.

A transaction holds it from its begin with `"transaction_mode": "IMMEDIATE"`, else from its first write.
"""

from dataclasses import dataclass, field

from django.db.backends.base.base import BaseDatabaseWrapper
from django_q.conf import logger

from durable_queue.work import task_connections

LONG = 1.0  # seconds


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
