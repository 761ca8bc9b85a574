"""The states of a task, and how its queue row shows them. No other module decides what a state is.

A queue row's `lock` tells when the row is due, or which lease holds it: the name of a lease is a moment far in the future.
Once a task has ended, its history row tells the state: `success` is true or false.
"""

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q, TextChoices
from django.utils import timezone

from durable_queue.models import FailedAttempt

# The name of a lease lies this far ahead, or farther. A row that is due later than half of this counts as held.
LEASES = timedelta(days=365 * 1000)


class State(TextChoices):
    """The state of a task, from enqueuing to the end of its history."""

    SCHEDULED = "scheduled", "Scheduled: it is due later"
    QUEUED = "queued", "Queued: it is due"
    RUNNING = "running", "Running: a worker has taken it"
    RETRYING = "retrying", "Retrying: it waits for its next attempt"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"


def held_from() -> datetime:
    """A `lock` that is later than this is the name of a lease."""
    return timezone.now() + LEASES / 2


def is_held(lock: datetime | None) -> bool:
    """Whether a worker holds a queue row with this `lock`."""
    return lock is not None and lock > held_from()


def held() -> Q:
    """The queue rows that workers hold."""
    return Q(lock__gt=held_from())


def state_of_row(lock: datetime | None, attempts: int) -> State:
    """The state of a queued task, by the `lock` of its row and the number of its failed attempts."""
    if is_held(lock):
        return State.RUNNING
    if lock is not None and lock > timezone.now():
        return State.RETRYING if attempts else State.SCHEDULED
    return State.QUEUED


def rows_in(state: State) -> Q:
    """The queue rows of tasks in this state. Raises KeyError for a state that no queued task has."""
    due = Q(lock__lte=timezone.now()) | Q(lock=None)
    tried = Exists(FailedAttempt.objects.filter(row=OuterRef("pk")))
    waits = ~due & ~held()
    return {
        State.QUEUED: due,
        State.SCHEDULED: waits & ~Q(tried),
        State.RETRYING: waits & Q(tried),
        State.RUNNING: held(),
    }[state]
