"""Queue several tasks together, each for now or for later."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from durable_queue.intake import idempotency, packaging
from durable_queue.intake.background_tasks import BackgroundTasks
from durable_queue.intake.packaging import Packed
from durable_queue.states import State
from durable_queue.status import TaskStatus
from durable_queue.store.keys import Key
from durable_queue.task.calls import already_imported
from durable_queue.task.identifiers import queued_at
from durable_queue.task.policy import policy_for

NOW = timedelta(0)


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """A task to queue: its calls, and when it is due: after a delay, at a moment, or now."""

    tasks: BackgroundTasks
    delay: timedelta = NOW  # from the moment when it is queued
    at: datetime | None = None  # aware; one that has come stands for now


def enqueue(new: Sequence[NewTask], key: Key | None = None) -> list[TaskStatus]:
    """Queue the tasks in one transaction, all or none; return what they are like at that moment.

    With a key, a request that is repeated queues nothing, and gets the same: the tasks as they were when they were queued.
    Raises KeyReusedError if the key came with another request; django.db.Error: then nothing is known to be queued; and what
    `BackgroundTasks.enqueue` raises. It never joins a transaction of the caller.
    """
    ahead = packaging.broker().table.clock_ahead() if any(task.delay or task.at for task in new) else NOW
    ids = idempotency.enqueue([_packed(task, ahead) for task in new], key)
    return [_accepted(task, task_id, ahead) for task, task_id in zip(new, ids, strict=True)]


def _packed(new: NewTask, ahead: timedelta) -> Packed:
    packed = new.tasks.packed()
    return packed._replace(due=_due(new, packed.id, ahead))


def _due(new: NewTask, task_id: str, ahead: timedelta) -> datetime | None:
    """When a task is due, by the clock that all hosts share; None: now. The same whenever it is asked."""
    queued = _queued(task_id) + ahead
    if new.delay:
        return queued + new.delay
    return new.at if new.at and new.at > queued else None


def _queued(task_id: str) -> datetime:
    """When a task was queued, by this host's clock."""
    moment = queued_at(task_id)
    assert moment, "made here"  # noqa: S101
    return moment


def _accepted(new: NewTask, task_id: str, ahead: timedelta) -> TaskStatus:
    """A task as it is when it has just been queued: nothing is read for it, and a repeated request gets it once more."""
    due, queued = _due(new, task_id, ahead), _queued(task_id)
    calls = new.tasks.calls
    first, path = calls[0][0], new.tasks.as_one_call()[0]
    return TaskStatus(
        id=task_id,
        state=State.SCHEDULED if due else State.QUEUED,
        name=new.tasks.title(),
        func=path,
        queue=packaging.broker().queue,
        attempts=0,
        max_attempts=policy_for(first, already_imported(first)).attempts or None,
        enqueued_at=queued,
        due_at=due or queued,
        started_at=None,
        finished_at=None,
        calls=len(calls),
        calls_done=0,
        cancel_requested_at=None,
        worker="",
        stored_result=None,
        error="",
    )
