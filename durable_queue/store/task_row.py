"""The queue row of one task, for those who act on it: found by the task's id, and changed only while no worker holds it.

Each change is one conditional statement. Whether it has changed a row says who was first: this caller, a worker that claims,
or somebody else who acts on the task.
"""

from typing import NamedTuple

from durable_queue.states import for_now, held_from
from durable_queue.store import lookup
from durable_queue.store.rows import HISTORY_TABLE, QUEUE_TABLE
from durable_queue.store.table import Table


class TaskRow(NamedTuple):
    """A row as it was when it was found."""

    id: int
    queue: str
    payload: str


class Whereabouts(NamedTuple):
    """Where a task is, by one snapshot."""

    row: TaskRow | None  # in the queue
    success: bool | None  # in the history; None: it is not there

    @property
    def is_unknown(self) -> bool:
        """Whether it is in neither."""
        return self.row is None and self.success is None


def find(table: Table, task_id: str) -> Whereabouts:
    """Find a task (32 hexadecimal digits) by its row's index, and by the history's key. Raises django.db.Error."""
    sql = f"""
        SELECT id, {table.dialect.as_text("key")}, payload, NULL FROM {QUEUE_TABLE} WHERE {table.part} = %s
        UNION ALL SELECT NULL, NULL, NULL, success FROM {HISTORY_TABLE} WHERE id = %s
    """  # noqa: S608
    row, success = None, None
    for number, queue, payload, succeeded in table.run(sql, (lookup.part_of(task_id), task_id)):
        if number is None:
            success = bool(succeeded)
        elif lookup.id_in_place(payload) == task_id:
            row = TaskRow(number, queue, payload)
    return Whereabouts(row, success)


def take_out(table: Table, row: int) -> tuple[str, str] | None:
    """Delete a row unless a worker holds it; return its queue and its payload if this was done. Raises django.db.Error.

    Since it was found, a worker may have given it back in another queue, or with another payload.
    """
    sql = f"DELETE FROM {QUEUE_TABLE} WHERE id = %s AND (lock IS NULL OR lock <= %s) RETURNING key, payload"  # noqa: S608
    for queue, payload in table.run(sql, (row, table.moment(held_from()))):
        return queue, payload
    return None


def bring_forward(table: Table, row: int) -> str | None:
    """Have a row that is due later be for now, unless a worker holds it; return its queue if it was so.

    Raises django.db.Error.
    """
    now = table.present()
    sql = f"UPDATE {QUEUE_TABLE} SET lock = %s WHERE id = %s AND lock > %s AND lock <= %s RETURNING key"  # noqa: S608
    for (queue,) in table.run(sql, (table.moment(for_now(now)), row, table.moment(now), table.moment(held_from()))):
        return str(queue)
    return None


def keep_held(table: Table, row: int) -> bool:
    """Whether a worker holds a row; if so, it can neither settle it nor give it back before this transaction ends.

    Raises django.db.Error.
    """
    lock = "" if table.has_one_writer else "FOR UPDATE"
    sql = f"SELECT id FROM {QUEUE_TABLE} WHERE id = %s AND lock > %s {lock}"  # noqa: S608
    return bool(table.run(sql, (row, table.moment(held_from()))))
