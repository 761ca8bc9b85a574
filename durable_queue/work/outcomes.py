"""Read a row's task, and decide what a finished, failed or lost attempt means for the row: a settlement for the broker."""

from datetime import UTC, datetime
from pydoc import ErrorDuringImport
from typing import Any

from django.db import DataError, IntegrityError
from django.db import Error as DatabaseError
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Task
from django_q.utils import get_func_repr

from durable_queue.models import FailedAttempt
from durable_queue.store.leases import LeaseLostError, Row, Settlement
from durable_queue.task import hooks, preview, signing
from durable_queue.task.calls import MissingError, find, path_today
from durable_queue.task.identifiers import is_task_id, new_task_id, queued_at, queued_if_untold
from durable_queue.task.policy import policy_for
from durable_queue.task.text import storable
from durable_queue.work.slot import InHand, Stage

FUNC_LENGTH = Task._meta.get_field("func").max_length


class RefusedError(Exception):
    """A row that can't be run, now or later."""


class LackingError(RefusedError):
    """A row whose payload names what this process lacks: another one may have it, or this one's successor."""


def read(row: Row) -> dict[str, Any]:
    """Check a row's signature, then unpickle it: the task as django-q2 keeps it, with its function's dotted path under `path`.

    Raises RefusedError, or LackingError; whatever unpickling raises comes as its cause.
    """
    try:
        task = signing.loads(row.payload)
    except signing.BadSignature as error:
        raise RefusedError(f"The payload's signature is wrong, so it was not unpickled: {error}") from error
    except BaseException as error:
        if isinstance(error, Exception) and (what := _lacks(row.payload)):
            raise LackingError(f"The payload can't be unpickled: {what}.") from error
        raise RefusedError(f"The payload can't be unpickled: {type(error).__name__}: {error}") from error
    if not isinstance(task, dict):
        raise RefusedError(f"The payload is no task of django-q2, but a {type(task).__name__}")
    try:
        func = task["func"]
        task["path"] = path_today(func if isinstance(func, str) else str(get_func_repr(func)))[:FUNC_LENGTH]
        task["name"], task["args"], task["kwargs"]
        if not is_task_id(task["id"]):
            raise TypeError(f"the id of {task['name']!r:.100} is {task['id']!r:.60}, and not 32 hexadecimal digits")
        if "started" not in task:  # which django-q2 has of each: when it was queued
            # No later than now: the clock may have been set back since.
            task["started"] = min((row.attempts and queued_at(task["id"])) or row.due, datetime.now(UTC))
    except (TypeError, KeyError) as error:
        raise RefusedError(f"The payload is no task of django-q2: {type(error).__name__}: {error}") from error
    if "hook" in task:
        task["hook"] = hooks.usable(task["hook"])
    task["cluster"] = Conf.CLUSTER_NAME
    task["ack_id"] = row.id
    return task


def _lacks(payload: str) -> str:
    """Which of the classes and functions that a payload names can't be had here; empty if it is not for that."""
    try:
        for path in preview.names_in(payload):
            find(path)
    except (MissingError, ErrorDuringImport) as error:
        return str(error)
    except Exception:  # garbage, though it is signed
        return ""
    return ""


def settle_finished(row: Row, task: dict[str, Any], worker: str, function: tuple[str, object] | None = None) -> Settlement:
    """The settlement of a run that came back, with a result or an error.

    `function`: the one that was running, by its dotted path, where it isn't the task's own.
    """
    if task["success"]:
        return Settlement(row=row, task=task, worker=worker)
    if isinstance(task["result"], str):
        task["result"] = storable(task["result"])
    outcome = FailedAttempt.Outcome.FAILED
    return _settle_failure(row, task, _attempt(row, task, worker, outcome, str(task["result"])), function)


def settle_cancelled(row: Row, task: dict[str, Any], worker: str) -> Settlement:
    """The settlement of a run that has heeded a user's request to cancel it."""
    attempt = _attempt(row, task, worker, FailedAttempt.Outcome.CANCELLED, str(task["result"]))
    return Settlement(row=row, task=task, attempt=attempt, cancelled=True)


def settle_refused(row: Row, reason: str, worker: str, task: dict[str, Any] | None = None) -> Settlement:
    """The settlement of a row that can't be run at all: failed at once, its payload kept."""
    task = _complete(row, task or _seen(row), timezone.now(), reason)
    attempt = _attempt(row, task, worker, FailedAttempt.Outcome.REFUSED, reason)
    return Settlement(row=row, task=task, attempt=attempt, refused=True)


def settle_lacking(row: Row, reason: str, worker: str) -> Settlement:
    """The settlement of a row whose payload names what this process lacks: it failed, and its payload is kept at the end."""
    task = _complete(row, _seen(row), timezone.now(), reason)
    settlement = _settle_failure(row, task, _attempt(row, task, worker, FailedAttempt.Outcome.FAILED, reason))
    return settlement._replace(refused=settlement.retry_at is None)


def _seen(row: Row) -> dict[str, Any]:
    """What of a row's task can be read without running anything of it; nothing if its signature is wrong."""
    shown = preview.read(row.payload)
    if shown.problem:
        return {}
    ack_failure = shown.options.get("ack_failure") is True
    known = {"id": shown.id, "name": shown.name, "path": shown.func[:FUNC_LENGTH], "ack_failure": ack_failure}
    return known | _texts(shown.options, "hook", "group")


def settle_lost(row: Row, in_hand: InHand, worker: str, *, is_overdue: bool) -> Settlement:
    """The settlement of a row that a killed worker had in hand, and that is charged for it."""
    reason = "It took too long and did not heed the timeout." if is_overdue else "The worker was killed while it ran."
    if in_hand.stage is Stage.FINISHED:
        reason = "The worker was killed before it was on record what it came to."
    task: dict[str, Any] = {"id": in_hand.task_id}
    if in_hand.stage in (Stage.RUNNING, Stage.HELD_UP, Stage.FINISHED):  # so it was unpickled, and that did no harm
        try:
            task = read(row)
        except RefusedError as error:
            return settle_refused(row, str(error), worker)
    else:
        reason = "The worker was killed while it unpickled the payload."
        task |= _seen(row)
    queued = queued_if_untold(task) if "started" in task else None
    task = _complete(row, task, datetime.fromtimestamp(in_hand.started, UTC), reason)
    outcome = FailedAttempt.Outcome.OVERDUE if is_overdue else FailedAttempt.Outcome.LOST
    settlement = _settle_failure(row, task, _attempt(row, task, worker, outcome, reason))._replace(queued=queued)
    if in_hand.stage is Stage.READING and settlement.retry_at is None:
        return Settlement(row=row, task=task, attempt=settlement.attempt, refused=True)
    return settlement


def _settle_failure(
    row: Row, task: dict[str, Any], attempt: FailedAttempt, function: tuple[str, object] | None = None
) -> Settlement:
    policy = policy_for(*(function or (task["path"],)))
    lost = attempt.outcome == FailedAttempt.Outcome.LOST
    if (task.get("ack_failure") and not lost) or policy.is_last(attempt.number):
        return Settlement(row=row, task=task, attempt=attempt)
    at_once = lost and row.losses == 0
    retry_at = row.due if at_once else timezone.now() + policy.wait(attempt.number)
    return Settlement(row=row, task=task, attempt=attempt, retry_at=retry_at)


def _attempt(row: Row, task: dict[str, Any], worker: str, outcome: FailedAttempt.Outcome, error: str) -> FailedAttempt:
    return FailedAttempt(
        row=row.id,
        task_id=task["id"],
        number=row.attempts + 1,
        outcome=outcome,
        worker=worker,
        started=task["started"],
        stopped=task["stopped"],
        error=storable(error),
    )


def is_unstorable(error: BaseException) -> bool:
    """Whether an error in a transaction comes from what was to be stored; others come from the database, and pass."""
    return not isinstance(error, DatabaseError | LeaseLostError) or isinstance(error, DataError | IntegrityError)


def settle_unstorable(settlement: Settlement, error: BaseException) -> Settlement:
    """In the place of a settlement that can't be stored: failed, with what is known to be storable. A retry stays one."""
    task = {"id": settlement.task["id"], "started": settlement.task["started"], "hook": settlement.task.get("hook")}
    task |= _texts(settlement.task, "group")
    reason = f"It ran, but what came of it can't be stored: {type(error).__name__}: {error}"
    refused = settle_refused(settlement.row, reason, settlement.attempt.worker if settlement.attempt else "", task)
    if settlement.retry_at and settlement.attempt and refused.attempt:
        refused.attempt.outcome = settlement.attempt.outcome
        return refused._replace(retry_at=settlement.retry_at, refused=False)
    return refused


def _texts(task: dict[str, Any], *names: str) -> dict[str, str]:
    """What is text of a task of which nothing else is certain: whoever waits for its group, or for its hook, is told."""
    return {name: task[name] for name in names if isinstance(task.get(name), str)}


def _complete(row: Row, task: dict[str, Any], started: datetime, reason: str) -> dict[str, Any]:
    """A failed task, with a stand-in for whatever could not be read."""
    return {
        "name": f"unreadable: queue row {row.id}",
        "path": "?",
        "args": (),
        "kwargs": {},
        "cluster": Conf.CLUSTER_NAME,
        **task,
        "id": task["id"] if is_task_id(task.get("id")) else new_task_id(),
        "started": min(started, now := timezone.now()),
        "stopped": now,
        "result": storable(reason),
        "success": False,
    }
