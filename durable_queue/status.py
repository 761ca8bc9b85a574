"""The state of a task, wherever it is: one answer for code, HTTP, admin and command line."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from durable_queue.states import State


@dataclass(frozen=True, kw_only=True)
class TaskStatus:
    """A task's state, and what is known of it, as one moment saw it. Moments are aware."""

    id: str  # 32 hexadecimal digits
    state: State
    name: str
    func: str  # a dotted path
    queue: str
    attempts: int  # that have ended or begun since it was queued last; one that only waits has begun none
    max_attempts: int | None  # None: any number
    enqueued_at: datetime | None
    due_at: datetime | None
    started_at: datetime | None  # of the last attempt; None while it has not begun, as far as is known
    finished_at: datetime | None  # of the last attempt
    calls: int
    calls_done: int
    cancel_requested_at: datetime | None
    worker: str  # that runs it, or has run its last attempt; empty if none did or it is not known
    stored_result: (
        str | None
    )  # of one that has ended: the result or the error as its column holds it, its beginning if it is long
    error: str  # one line, type and message, of the last attempt that failed; empty if none did


def status_of(task_id: str, *, using: str | None = None) -> TaskStatus | None:
    """The task's status; None if no task with this id is known. Raises django.db.Error."""
    raise NotImplementedError


def statuses(task_ids: Collection[str], *, using: str | None = None) -> dict[str, TaskStatus]:
    """Those of several tasks, by their ids, without those that are not known. One statement for all of them."""
    raise NotImplementedError


def have_ended(task_ids: Collection[str], *, using: str | None = None) -> set[str]:
    """Which of these tasks are in no queue any more, known or not: by one statement, which reads no payload."""
    raise NotImplementedError


def newest(  # noqa: PLR0913
    *, limit: int, before: str | None = None, state: State | None = None, queue: str = "", using: str | None = None
) -> tuple[Sequence[TaskStatus], str | None]:
    """Tasks, those that were queued last first, and the cursor of the next page; None: there is none.

    `before`: a cursor. Raises ValueError for one that this function has not given.
    """
    raise NotImplementedError


def result_of(status: TaskStatus) -> Any:
    """The result of a task that has succeeded, read without running anything that it holds."""
    raise NotImplementedError
