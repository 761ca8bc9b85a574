"""Find tasks by their ids wherever they are: in the queue or in the history, with all that tells their states.

One statement sees one snapshot. Between two, a task could move from one table to the other, unseen by both.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

from durable_queue.models import Cancellation
from durable_queue.store import lookup
from durable_queue.store.own_columns import QUEUED, WORKER, with_own_columns
from durable_queue.store.rows import ATTEMPTS_TABLE, HISTORY_TABLE, QUEUE_TABLE, WORKERS_TABLE
from durable_queue.store.table import Table
from durable_queue.task.calls import IN_ORDER

LONGEST = 1 << 18  # characters of a payload, of arguments, of a result or of an error that are read
CANCELLATIONS_TABLE = Cancellation._meta.db_table


class Found(NamedTuple):
    """A task as its rows show it, in the order of the statement's columns. Long texts have one character more than `LONGEST`.

    In the history: `name` to `result`. There `content` has the pickled arguments, of a task with several calls alone.
    """

    id: str
    row: int | None  # the queue row's id; None: the task has ended
    queue: str | None  # as the row has it
    lock: datetime | None
    content: str | None  # of a queued task: its payload
    name: str | None
    func: str | None
    started: datetime | None
    stopped: datetime | None
    success: bool | None
    attempts: int  # of a queued task, those that have failed
    result: str | None
    own_worker: str | None
    own_queued: datetime | None
    failure_worker: str | None  # of the last attempt that failed
    failure_started: datetime | None
    failure_stopped: datetime | None
    failure_error: str | None
    worker_pid: int | None  # of the worker that holds the row
    worker_host: str | None
    in_hand: str | None  # what that worker's row says of this task, in JSON
    cancel_requested: datetime | None
    cancel_heeded: datetime | None
    present: datetime  # by the clock that all hosts share


_MOMENTS = tuple(
    Found._fields.index(name)
    for name in (
        *("lock", "started", "stopped", "own_queued", "failure_started", "failure_stopped"),
        *("cancel_requested", "cancel_heeded", "present"),
    )
)


def find(table: Table, task_ids: Collection[str]) -> dict[str, Found]:
    """What is known of the tasks with these ids (32 hexadecimal digits each), by one snapshot. Raises django.db.Error.

    A task that is both in the queue and in the history, as another program may have it, is where it is now: in the queue.
    """
    if not task_ids:
        return {}
    parts = {task_id: lookup.part_of(task_id) for task_id in sorted(task_ids)}  # neighbours stand on the same pages
    values = table.dialect.asked_values(parts)
    rows = with_own_columns(lambda has_own: table.run(_statement(type(table), has_own=has_own), values))
    found: dict[str, Found] = {}
    now = datetime.now(UTC)
    for columns in rows:
        task = _as_found(table, columns, now)
        if task.row is None:
            found.setdefault(task.id, task)
        elif lookup.id_in_place(task.content or "") == task.id:  # the index compares the first 30 digits
            found[task.id] = task
    return found


def _as_found(table: Table, values: tuple[object, ...], now: datetime) -> Found:
    columns = list(values)
    for index in _MOMENTS:
        if (value := columns[index]) is not None:
            columns[index] = table.read(value) if value else None  # type: ignore[arg-type]
    task = Found(*columns)  # type: ignore[arg-type]
    if not isinstance(task.attempts, int):  # somebody has written it by hand
        task = task._replace(attempts=0)
    return task if task.present else task._replace(present=now)


def queued_among(table: Table, task_ids: Collection[str]) -> set[str]:
    """Which of these tasks are in the queue, by one statement that reads no payload. Raises django.db.Error.

    A task also counts as queued if a queued task's id has the same first 30 characters.
    """
    if not task_ids:
        return set()
    parts = {task_id: lookup.part_of(task_id) for task_id in sorted(task_ids)}
    sql = (
        f"SELECT asked.id FROM ({table.dialect.asked}) AS asked "  # noqa: S608
        f"WHERE (SELECT count(*) FROM {QUEUE_TABLE} WHERE {table.part} = asked.part) > 0"
    )
    return {task_id for (task_id,) in table.run(sql, table.dialect.asked_values(parts))}


@cache
def _statement(table: type[Table], *, has_own: bool) -> str:
    """Each of the joins looks a few rows up by an index, whatever the planner thinks of the tables.

    What is a moment or a text is read as text: one row that somebody has written by hand must not keep the others back.
    """
    words = table.dialect

    def texts(*columns: str) -> str:
        return ", ".join(map(words.as_text, columns))

    own = texts(f"h.{WORKER}", f"h.{QUEUED}") if has_own else "NULL, NULL"
    failure = texts("a.worker", "a.started", "a.stopped", f"substr(a.error, 1, {LONGEST + 1})")
    worker = f"w.pid, {texts('w.host')}, {words.entry_of('w.in_hand', 'asked.id')}"
    cancelled = f"{texts('c.requested', 'c.heeded')}, {words.present}"
    last = f"SELECT id FROM {ATTEMPTS_TABLE} WHERE {{}} ORDER BY id DESC LIMIT 1"  # noqa: S608
    tried = f"SELECT count(*) FROM {ATTEMPTS_TABLE} WHERE row = q.id"  # noqa: S608
    cancellation = words.look_up(CANCELLATIONS_TABLE, "c", "c.task_id = asked.id", outer=True)
    return f"""
        WITH asked AS MATERIALIZED ({words.asked})
        SELECT asked.id, q.id, {texts("q.key", "q.lock")}, substr(q.payload, 1, {LONGEST + 1}), NULL, NULL, NULL, NULL, NULL,
            ({tried}), NULL, NULL, NULL, {failure}, {worker}, {cancelled}
        FROM asked
        {words.look_up(QUEUE_TABLE, "q", f"{table.part} = asked.part")}
        {words.look_up(ATTEMPTS_TABLE, "a", f"a.id = ({last.format('row = q.id')})", outer=True)}
        LEFT JOIN {WORKERS_TABLE} AS w ON w.lease = q.lock
        {cancellation}
        UNION ALL
        SELECT asked.id, NULL, {texts("h.cluster")}, NULL,
            CASE WHEN h.func = '{IN_ORDER}' THEN {texts(f"substr(h.args, 1, {LONGEST + 1})")} END,
            {texts("h.name", "h.func", "h.started", "h.stopped")}, CASE WHEN h.success THEN 1 ELSE 0 END, h.attempt_count,
            {texts(f"substr(h.result, 1, {LONGEST + 1})")}, {own}, {failure}, NULL, NULL, NULL, {cancelled}
        FROM asked
        {words.look_up(HISTORY_TABLE, "h", "h.id = asked.id")}
        {words.look_up(ATTEMPTS_TABLE, "a", f"a.id = ({last.format('task_id = asked.id')})", outer=True)}
        {cancellation}
    """  # noqa: S608
