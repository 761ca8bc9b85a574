"""durable_queue/states.py: what a row's columns say of its task's state, in Python and in a query."""

from datetime import datetime, timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ
from django_q.tasks import async_task

from durable_queue.models import FailedAttempt
from durable_queue.states import LEASES, State, held, is_held, rows_in, state_of_row
from durable_queue.store.broker import Broker
from tests.support.queue_rows import worker

pytestmark = pytest.mark.django_db

PAST, SOON, HELD = timedelta(seconds=-5), timedelta(hours=1), LEASES + timedelta(days=1)
STATES = {
    "due": (PAST, 0, State.QUEUED),
    "due again": (PAST, 2, State.QUEUED),
    "due later": (SOON, 0, State.SCHEDULED),
    "waits for its next attempt": (SOON, 2, State.RETRYING),
    "taken": (HELD, 0, State.RUNNING),
    "taken again": (HELD, 2, State.RUNNING),
}


def row(lock: datetime | None, attempts: int) -> OrmQ:
    """A queue row, and its failed attempts."""
    made, now = OrmQ.objects.create(key="notifier", payload="", lock=lock), timezone.now()
    for number in range(attempts):
        FailedAttempt.objects.create(row=made.pk, number=number + 1, outcome="failed", started=now, stopped=now)
    return made


@pytest.mark.parametrize(("due", "attempts", "state"), STATES.values(), ids=STATES)
def test_state_of_row__is_what_the_query_finds(due: timedelta, attempts: int, state: State) -> None:
    made = row(timezone.now() + due, attempts)
    assert state_of_row(made.lock, attempts) is state
    queued = (State.SCHEDULED, State.QUEUED, State.RUNNING, State.RETRYING)
    assert [each for each in queued if OrmQ.objects.filter(rows_in(each)).exists()] == [state]
    assert OrmQ.objects.filter(held()).exists() == is_held(made.lock) == (state is State.RUNNING)


def test_state_of_row__without_a_time() -> None:
    """As a row of another program may have it."""
    row(None, 0)
    assert state_of_row(None, 0) is State.QUEUED
    assert OrmQ.objects.filter(rows_in(State.QUEUED)).count() == 1


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_rows_in__a_state_that_no_queued_task_has(state: State) -> None:
    with pytest.raises(KeyError):
        rows_in(state)


def test_state_of_row__from_queueing_to_a_claim() -> None:
    async_task("math.hypot", 3, 4)
    assert state_of_row(OrmQ.objects.get().lock, 0) is State.QUEUED
    Broker().settle_and_claim(worker("alice"), claim=1)
    assert state_of_row(OrmQ.objects.get().lock, 0) is State.RUNNING
