"""Verbs: what a user can do to a task, for admin, HTTP, command line and code alike.

Each is one conditional statement: of several callers, and of a caller and a worker, one wins, and the others learn it. Each is
logged with who did it and why. All of them raise django.db.Error; then nothing has changed.
"""

import functools
import logging
from binascii import a2b_base64
from enum import StrEnum
from typing import Any

from django.db import transaction
from django.db.models import TextField
from django.db.models.functions import Cast
from django_q.models import Failure, Task

from durable_queue.intake import packaging
from durable_queue.models import Cancellation, DeadLetter, FailedAttempt, Note
from durable_queue.store import cancelling, task_row, wakeup
from durable_queue.store.broker import Broker
from durable_queue.store.leases import Row, home_queue
from durable_queue.store.lock_waits import bound
from durable_queue.store.pausing import pause, resume
from durable_queue.task import preview, signing
from durable_queue.task.identifiers import BadIdError, is_task_id
from durable_queue.task.pickled import Pickled
from durable_queue.task.text import storable
from durable_queue.work.follow_ups import follow_up

__all__ = ["Came", "NotKeptError", "cancel", "delete", "pause", "resume", "retry", "run_now"]

logger = logging.getLogger("durable_queue.verbs")

WHO, WHY = 150, 1_000  # characters that are kept of the user's name, and of the reason
TRIES = 5  # looks at a task that moves between two statements: a worker takes it, or gives it back


class Came(StrEnum):
    """What a verb came to."""

    DONE = "done"
    ASKED = "asked"  # a worker runs it: the request is noted
    NOTHING = "nothing"  # it is so already
    REFUSED = "refused"  # its state forbids it
    UNKNOWN = "unknown"  # there is no such task


class NotKeptError(Exception):
    """The history holds too little of the task to run it again."""


def cancel(task_id: str, *, by: str, why: str = "", using: str | None = None) -> Came:
    """Cancel a task. One that waits ends now, and never runs. Of one that runs it is noted: ASKED, also when asked again.

    A running coroutine is cancelled; a function may heed the request (docs/tasks.md); one that heeds nothing ends as it would
    have. What has not begun, or fails, ends instead of being tried again. NOTHING: it was cancelled before. REFUSED: it has
    ended.
    """
    came = _cancel(Broker(using=using), task_id, by=storable(by)[:WHO], why=storable(why)[:WHY])
    return _logged("cancel", task_id, came, by, why)


def _cancel(broker: Broker, task_id: str, *, by: str, why: str) -> Came:
    if not is_task_id(task_id):
        return Came.UNKNOWN
    using, table = broker.using, broker.table
    request = Cancellation(task_id=task_id, by=by, why=why)
    for _ in range(TRIES):
        found = task_row.find(table, task_id)
        if found.row is None:
            break
        with table.turn(), transaction.atomic(using=using):
            bound(table)
            if taken := task_row.take_out(table, found.row.id):
                _end(found.row.id, *taken, request, using)
                return Came.DONE
            if task_row.keep_held(table, found.row.id):
                Cancellation.objects.using(using).bulk_create([request], ignore_conflicts=True)
                return Came.ASKED
    if found.is_unknown:
        return Came.UNKNOWN
    was_cancelled = Cancellation.objects.using(using).filter(pk=task_id, heeded__isnull=False).exists()
    return Came.NOTHING if was_cancelled else Came.REFUSED


def _end(row: int, queue: str, payload: str, request: Cancellation, using: str) -> None:
    """Write the history of a task whose row was taken out of the queue, and do what follows its end."""
    broker = Broker(queue, using, follow_up=follow_up)
    Cancellation.objects.using(using).bulk_create([request], ignore_conflicts=True)
    (counted,) = broker.table.count_attempts([(row, request.requested, payload)])
    cancelling.settle_unrun(broker, [cancelling.cancelled(Row(*counted), request, queue=queue)])


def run_now(task_id: str, *, by: str, why: str = "", using: str | None = None) -> Came:
    """Have a task that is scheduled, or retrying, be due now. One that is retrying keeps its attempts.

    NOTHING: it is due. REFUSED: a worker has it, or it has ended.
    """
    return _logged("run_now", task_id, _run_now(Broker(using=using), task_id), by, why)


def _run_now(broker: Broker, task_id: str) -> Came:
    if not is_task_id(task_id):
        return Came.UNKNOWN
    table = broker.table
    for _ in range(TRIES):
        found = task_row.find(table, task_id)
        if found.row is None:
            return Came.UNKNOWN if found.is_unknown else Came.REFUSED
        with table.turn(), transaction.atomic(using=broker.using):
            bound(table)
            if queue := task_row.bring_forward(table, found.row.id):
                transaction.on_commit(functools.partial(wakeup.wake, queue), using=broker.using)
                return Came.DONE
            if task_row.keep_held(table, found.row.id):
                return Came.REFUSED
        if task_row.find(table, task_id).row:
            return Came.NOTHING
    return Came.REFUSED


def delete(task_id: str, *, by: str, why: str = "", using: str | None = None) -> Came:
    """Delete an ended task from the history, with its attempts, notes, payload and cancellation. REFUSED: it lives."""
    return _logged("delete", task_id, _delete(Broker(using=using), task_id), by, why)


def _delete(broker: Broker, task_id: str) -> Came:
    using = broker.using
    if storable(task_id) != task_id:
        return Came.UNKNOWN
    with broker.table.turn(), transaction.atomic(using=using):
        bound(broker.table)
        if Task.objects.using(using).filter(pk=task_id).delete()[0]:
            for kind in (FailedAttempt, Note, DeadLetter, Cancellation):
                kind._default_manager.using(using).filter(task_id=task_id).delete()
            return Came.DONE
    return _refused_or_unknown(broker, task_id)


def retry(task_id: str, *, by: str, why: str = "", using: str | None = None) -> Came:
    """Move a failed or cancelled task from the history back into its queue. REFUSED: it is neither, or not any more.

    The task keeps its id, name, function, arguments, group and hook: no write is made twice. The history has no columns for
    its other options (its own timeout, `save`, a chain): the configured ones apply. A task that was refused, or cancelled
    before it began, goes back with its payload as it was. Raises NotKeptError.
    """
    return _logged("retry", task_id, _retry(Broker(using=using), task_id), by, why)


def _retry(broker: Broker, task_id: str) -> Came:
    using = broker.using
    if storable(task_id) != task_id:
        return Came.UNKNOWN
    failures = Failure.objects.using(using).filter(pk=task_id)
    letters = DeadLetter.objects.using(using).filter(task_id=task_id)
    with transaction.atomic(using=using):
        bound(broker.table)
        # Locked: else it could be retried, fail again and be kept anew, between this statement and the one that deletes it.
        # Not as Django would load them: that unpickles each value in this process, and runs what it holds.
        pickled = {f"pickled_{name}": Cast(name, TextField()) for name in ("args", "kwargs")}
        task = failures.select_for_update().defer("args", "kwargs", "result").annotate(**pickled).first()
        if task:
            letter = letters.order_by("pk").last()
            queue, payload = (letter.queue, letter.payload) if letter else (task.cluster, signing.dumps(_task_of(task)))
            if failures.delete()[0]:
                letters.delete()
                Cancellation.objects.using(using).filter(pk=task_id).delete()
                Broker(queue and home_queue(queue), using).enqueue_all([payload], as_they_are=True)
                return Came.DONE
    return _refused_or_unknown(broker, task_id)


def _refused_or_unknown(broker: Broker, task_id: str) -> Came:
    is_known = is_task_id(task_id) and not task_row.find(broker.table, task_id).is_unknown
    return Came.REFUSED if is_known else Came.UNKNOWN


def _task_of(failure: Any) -> dict[str, Any]:
    """The failed task as `django_q.tasks.async_task` would make it, but with its old id."""
    if not is_task_id(failure.id):
        raise NotKeptError(str(BadIdError(failure.id)))
    args, kwargs = _checked(failure, failure.pickled_args, tuple, list), _checked(failure, failure.pickled_kwargs, dict)
    options = {"hook": failure.hook, "group": failure.group}
    task = packaging.new_task(failure.func, args, kwargs, name=failure.name)
    return task | {name: value for name, value in options.items() if value is not None} | {"id": failure.id}


def _checked(failure: Failure, pickled: str | None, *kinds: type) -> Any:
    """The value, as it is pickled; raises NotKeptError where it is seen that it is no such value."""
    value = preview.read_stored(pickled)
    if value is None:
        return kinds[0]()
    if not isinstance(value, kinds) and len(pickled or "") <= preview.STORED:
        raise NotKeptError(f"The arguments of {failure.name} can't be unpickled any more.")
    return Pickled(a2b_base64(pickled or ""))


def _logged(verb: str, task_id: str, came: Came, by: str, why: str) -> Came:
    """Log who has asked for what, and why; neither the task's name nor its arguments. Returns `came`."""
    if came is not Came.UNKNOWN:  # what was asked for is no task's id then
        logger.info("%s of task %s by %r: %s%s", verb, task_id, by[:WHO], came.value, f" ({why[:WHY]!r})" if why else "")
    return came
