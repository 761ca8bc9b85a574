"""The states of a task, and how a queue row or a history row shows them. Nothing else says what a state is.

A queue row's `lock` tells when it is due, or which lease holds it: leases are named by moments far in the future.
"""

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q, TextChoices
from django.utils import timezone

from durable_queue.models import FailedAttempt

# Leases lie this far ahead, or farther; what is due later than that will not be.
LEASES = timedelta(days=365 * 1000)


class State(TextChoices):
    """Where a task stands between being queued and the end of its history."""

    SCHEDULED = "scheduled", "Scheduled: it is due later"
    QUEUED = "queued", "Queued: it is due"
    RUNNING = "running", "Running: a worker has taken it"
    RETRYING = "retrying", "Retrying: it waits for its next attempt"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"


def is_held(lock: datetime | None) -> bool:
    """Whether a queue row with this `lock` is a worker's."""
    return lock is not None and lock > timezone.now() + LEASES / 2


def held() -> Q:
    """The queue rows that workers hold."""
    return Q(lock__gt=timezone.now() + LEASES / 2)


def state_of_row(lock: datetime | None, attempts: int) -> State:
    """The state of a queued task, by its row's `lock` and the number of its attempts that went wrong."""
    if is_held(lock):
        return State.RUNNING
    if lock is not None and lock > timezone.now():
        return State.RETRYING if attempts else State.SCHEDULED
    return State.QUEUED


def state_of_history(*, success: bool) -> State:
    """The state of a task that has ended, by its row in history."""
    return State.SUCCEEDED if success else State.FAILED


def rows_in(state: State) -> Q:
    """The queue rows of tasks in this state. Raises KeyError for one that no queued task has."""
    due = Q(lock__lte=timezone.now()) | Q(lock=None)
    tried = Exists(FailedAttempt.objects.filter(row=OuterRef("pk")))
    waits = ~due & ~held()
    return {
        State.QUEUED: due,
        State.SCHEDULED: waits & ~Q(tried),
        State.RETRYING: waits & Q(tried),
        State.RUNNING: held(),
    }[state]
