"""The state of a task, wherever it is: one answer for code, HTTP, admin and command line."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections
from django_q.conf import Conf

from durable_queue.models import Worker
from durable_queue.states import State, due_since, is_held, state_of_ended, state_of_row
from durable_queue.store import finding, listing
from durable_queue.store.databases import table_of
from durable_queue.store.finding import LONGEST, Found
from durable_queue.store.leases import home_queue
from durable_queue.store.table import Table
from durable_queue.task import preview
from durable_queue.task.beginning import read_beginning
from durable_queue.task.calls import DONE, IN_ORDER, already_imported, path_today
from durable_queue.task.errors import one_line
from durable_queue.task.identifiers import is_task_id, queued_at
from durable_queue.task.policy import policy_for
from durable_queue.task.preview import Preview


@dataclass(frozen=True, kw_only=True)
class TaskStatus:
    """A task's state, and what is known of it, as one moment saw it. Moments are aware."""

    id: str  # 32 hexadecimal digits
    state: State
    name: str  # "unreadable" of a queued task whose payload can't be read, with an empty `func`
    func: str  # a dotted path
    queue: str
    attempts: int  # that have ended or, as far as is known, begun since it was queued last
    max_attempts: int | None  # None: any number. Of a policy in a decorator, only a process knows that has imported it
    enqueued_at: datetime | None
    due_at: datetime | None  # of one that waits; None once a worker has taken it
    started_at: datetime | None  # of the last attempt; None while it has not begun, as far as is known
    finished_at: datetime | None  # of the last attempt
    calls: int  # 1 too for one whose payload is too long to be read (`finding.LONGEST`)
    calls_done: int
    cancel_requested_at: datetime | None
    worker: str  # that runs it, or has run its last attempt; empty if none did or it is not known
    stored_result: str | None  # of one that has ended: the result or the error as its column holds it, its beginning if long
    error: str  # one line, type and message, of the last attempt that failed; empty if none did


def status_of(task_id: str, *, using: str | None = None) -> TaskStatus | None:
    """The task's status; None if no task with this id is known. Raises django.db.Error."""
    return statuses([task_id], using=using).get(task_id)


def statuses(task_ids: Collection[str], *, using: str | None = None) -> dict[str, TaskStatus]:
    """Those of several tasks, by their ids, without those that are not known. One statement for all of them.

    Raises django.db.Error.
    """
    found = finding.find(_table(using), {task_id for task_id in task_ids if is_task_id(task_id)})
    return {task_id: _of_queued(task) if task.row is not None else _of_ended(task) for task_id, task in found.items()}


def have_ended(task_ids: Collection[str], *, using: str | None = None) -> set[str]:
    """Which of these tasks are in no queue any more, known or not: by one statement, which reads no payload.

    Raises django.db.Error.
    """
    asked = set(task_ids)
    return asked - finding.queued_among(_table(using), {task_id for task_id in asked if is_task_id(task_id)})


def newest(
    *, limit: int, before: str | None = None, state: State | None = None, queue: str = "", using: str | None = None
) -> tuple[Sequence[TaskStatus], str | None]:
    """Tasks, those that were queued last first, and the cursor of the next page; None: there is none.

    `limit`: at most `listing.MOST`. With `state` or `queue`, a page may have fewer tasks than that, or none, though more
    follow: it reads a bounded number of rows. Which place a task has, `durable_queue.store.listing` says. A queued task whose
    payload has no id at its place has none here either. `before`: a cursor. Raises BadCursorError for one that this
    function has not given, and django.db.Error.
    """
    table = _table(using)
    page = listing.page(table, limit=limit, before=before, state=state, queue=queue)
    found = statuses(page.task_ids, using=using)
    listed = [found[task_id] for task_id in page.task_ids if task_id in found]
    return [each for each in listed if state in (None, each.state)], page.cursor


def result_of(status: TaskStatus) -> Any:
    """The result of a task that has succeeded, read without running anything that it holds.

    Stand-ins take the place of objects, and a `preview.Unreadable` that of a value which is too long or can't be read.
    """
    return preview.read_stored(status.stored_result, LONGEST)


def _table(using: str | None) -> Table:
    return table_of(connections[using or Conf.ORM or "default"])


def _of_queued(task: Found) -> TaskStatus:
    state = state_of_row(task.lock, task.attempts, task.present)
    shown = _preview(task.content or "")
    calls, done = _calls(shown.func, shown.args)
    in_hand = json.loads(task.in_hand) if task.in_hand else {}
    is_running = state is State.RUNNING
    started = _moment(in_hand.get("started")) if is_running else None
    worker = str(Worker(pid=task.worker_pid, host=task.worker_host or "")) if task.worker_pid is not None else ""
    due = None if task.lock is None or is_held(task.lock) else due_since(task.lock)
    return TaskStatus(
        id=task.id,
        state=state,
        name=shown.name,
        func=path_today(shown.func),
        queue=home_queue(task.queue or ""),
        attempts=task.attempts + (started is not None),
        max_attempts=1 if shown.options.get("ack_failure") is True else _max_attempts(shown.func, shown.args, done),
        enqueued_at=queued_at(task.id) or _moment(shown.options.get("started")) or due,
        due_at=due,
        started_at=started if is_running else task.failure_started,
        finished_at=None if is_running else task.failure_stopped,
        calls=calls,
        calls_done=max(done, in_hand.get("calls_done", 0)) if is_running else done,
        cancel_requested_at=task.cancel_requested,
        worker=worker if is_running else task.failure_worker or "",
        stored_result=None,
        error=one_line(task.failure_error or ""),
    )


def _of_ended(task: Found) -> TaskStatus:
    assert task.name is not None and task.func is not None  # noqa: S101, PT018
    state = state_of_ended(success=bool(task.success), is_cancelled=task.cancel_heeded is not None)
    has_succeeded = state is State.SUCCEEDED
    args = preview.read_stored(task.content, LONGEST) if task.content else ()
    calls, done = _calls(task.func, args)
    error = task.failure_error or ""
    if not has_succeeded and isinstance(stored := preview.read_stored(task.result, LONGEST), str):
        error = stored
    return TaskStatus(
        id=task.id,
        state=state,
        name=task.name,
        func=task.func,
        queue=home_queue(task.queue or ""),
        attempts=task.attempts,
        max_attempts=_max_attempts(task.func, args, done),
        enqueued_at=queued_at(task.id) or task.own_queued,
        due_at=None,
        started_at=task.started if task.attempts else None,  # one that was cancelled before it began
        finished_at=task.stopped,
        calls=calls,
        calls_done=calls if has_succeeded else done,
        cancel_requested_at=task.cancel_requested,
        worker=task.own_worker or ("" if has_succeeded else task.failure_worker or ""),
        stored_result=task.result,
        error=one_line(error),
    )


def _preview(payload: str) -> Preview:
    return preview.read(payload) if len(payload) <= LONGEST else read_beginning(payload)


def _calls(path: str, args: Any) -> tuple[int, int]:
    """How many calls a task has, and how many of them an earlier attempt has made."""
    if path_today(path) != IN_ORDER or not isinstance(args, tuple | list) or not args:
        return 1, 0
    return len(args), sum(_path_of_call(call) == DONE for call in args)


def _max_attempts(path: str, args: Any, done: int) -> int | None:
    """By the policy of the function, or of the call that is next: that of a decorator only where it is imported already."""
    path = path_today(path)
    if path == IN_ORDER and isinstance(args, tuple | list) and done < len(args):
        path = path_today(_path_of_call(args[done]))
    return policy_for(path, already_imported(path)).attempts or None


def _path_of_call(call: Any) -> str:
    return call[0] if isinstance(call, tuple | list) and call and isinstance(call[0], str) else ""


def _moment(value: Any) -> datetime | None:
    """A moment from a payload, or from JSON; None for what is none, or has no zone."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, datetime) and value.tzinfo else None
