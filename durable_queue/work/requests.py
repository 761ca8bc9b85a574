"""Users' requests to cancel tasks that a worker has in hand: it looks for them only once a task takes longer."""

from collections.abc import Collection
from contextlib import suppress

from django.db import Error as DatabaseError

from durable_queue.models import Cancellation
from durable_queue.store import queue_connection
from durable_queue.store.cancelling import reason_of
from durable_queue.store.databases import table_of
from durable_queue.store.table import Table
from durable_queue.task import running

LOOK = 0.5  # seconds that a task is in hand before it is looked for, and between two looks

_TABLE = Cancellation._meta.db_table


class Requests:
    """A worker's looks for requests, from its watch: one statement for all tasks that take longer, if there are any."""

    def __init__(self) -> None:
        self._next = 0.0  # monotonic

    def look(self, now: float) -> None:
        """Tell tasks that somebody has asked to cancel them, if it is time to look. `now`: monotonic."""
        if now < self._next:
            return
        tasks = {task.id: task for task in running.tasks_in_hand() if task.began < now - LOOK and not task.is_cancelled}
        if not tasks:
            return
        with queue_connection.held_if_free() as is_free:  # the watch must not wait: whoever uses it may wait for the database
            if not is_free:
                return
            self._next = now + LOOK
            with suppress(DatabaseError), queue_connection.own_connection() as connection:  # it looks again
                for request in _of(table_of(connection), tasks):
                    tasks[request.task_id].ask_to_cancel(reason_of(request))


def _of(table: Table, task_ids: Collection[str]) -> list[Cancellation]:
    marks = ", ".join(["%s"] * len(task_ids))
    sql = f'SELECT task_id, "by", why FROM {_TABLE} WHERE task_id IN ({marks}) AND heeded IS NULL'  # noqa: S608
    found = table.run(sql, list(task_ids))
    return [Cancellation(task_id=task_id, by=by, why=why) for task_id, by, why in found]
