"""The states of a task, and how its queue row shows them. No other module decides what a state is.

A queue row's `lock` tells one of three things. A moment far in the past: the row is for now, whatever any clock says, and
was queued 800 years later. A moment of our days: the row is due then. A moment far in the future: the name of the
lease that holds the row.

Once a task has ended, its history row tells the state: `success` is true or false. A task that was cancelled has not
succeeded, and has a request to cancel it that was heeded (`Cancellation`).
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, Exists, OuterRef, Q, TextChoices, Value
from django.db.models.functions import Now
from django.utils import timezone

from durable_queue.models import FailedAttempt

# The name of a lease lies this far ahead, or farther. A row that is due later than half of this counts as held.
LEASES = timedelta(days=365 * 1000)

# The `lock` of a row that is for now lies that far behind the moment since when it is due. So it is due by any clock, and
# these rows are in the order of their queueing. After 400 years the calendar repeats itself: only the year looks different.
FOR_NOW = timedelta(days=2 * 146_097)
EARLIEST = datetime(1000, 1, 1, tzinfo=UTC)  # since when a row can be due: no moment is so long ago, but a wrong one
FOR_NOW_UNTIL = datetime(1600, 1, 1, tzinfo=UTC)  # the `lock` of all these rows is earlier; that of any other row is later


class State(TextChoices):
    """The state of a task, from enqueuing to the end of its history."""

    SCHEDULED = "scheduled", "Scheduled: it is due later"
    QUEUED = "queued", "Queued: it is due"
    RUNNING = "running", "Running: a worker has taken it"
    RETRYING = "retrying", "Retrying: it waits for its next attempt"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


class Present(Now):
    """The present moment, in a query, by the clock that all hosts share: the server's. On SQLite there is one host."""

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        """SQLite's own clock is this host's too, but has no microseconds."""
        return compiler.compile(Value(timezone.now(), DateTimeField()))


def for_now(since: datetime) -> datetime:
    """The `lock` of a row that is for now, and takes its place among the others by this moment."""
    return max(since, EARLIEST) - FOR_NOW


def due_since(lock: datetime) -> datetime:
    """When a row with this `lock` was or is due. It must not be the name of a lease."""
    return lock + FOR_NOW if lock < FOR_NOW_UNTIL else lock


def held_from() -> datetime:
    """A `lock` that is later than this is the name of a lease."""
    return timezone.now() + LEASES / 2


def is_held(lock: datetime | None) -> bool:
    """Whether a worker holds a queue row with this `lock`."""
    return lock is not None and lock > held_from()


def held() -> Q:
    """The queue rows that workers hold."""
    return Q(lock__gt=held_from())


def state_of_row(lock: datetime | None, attempts: int, now: datetime | None = None) -> State:
    """The state of a queued task, by the `lock` of its row and the number of its failed attempts.

    `now`: the present moment by the clock that all hosts share (`Present`), if it isn't this host's.
    """
    if is_held(lock):
        return State.RUNNING
    if lock is not None and lock > (now or timezone.now()):
        return State.RETRYING if attempts else State.SCHEDULED
    return State.QUEUED


def state_of_ended(*, success: bool, is_cancelled: bool) -> State:
    """The state of a task that has ended, by its history row, and by whether a user's request to cancel it was heeded."""
    if success:
        return State.SUCCEEDED
    return State.CANCELLED if is_cancelled else State.FAILED


def rows_in(state: State) -> Q:
    """The queue rows of tasks in this state. Raises KeyError for a state that no queued task has."""
    due = Q(lock__lte=Present()) | Q(lock=None)
    tried = Exists(FailedAttempt.objects.filter(row=OuterRef("pk")))
    waits = ~due & ~held()
    return {
        State.QUEUED: due,
        State.SCHEDULED: waits & ~Q(tried),
        State.RETRYING: waits & Q(tried),
        State.RUNNING: held(),
    }[state]
