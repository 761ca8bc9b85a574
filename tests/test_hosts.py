"""Two hosts that share a PostgreSQL: a task that one of them runs is not run by the other, whatever their clocks say."""

import time
from pathlib import Path

import pytest
from django_q.models import Success
from django_q.tasks import async_task

from durable_queue.models import FailedAttempt
from tests.support import environment, selection
from tests.support.clocks import Clock
from tests.support.hosts import hosts_of, runs, working_host
from tests.support.processes import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), selection.on_postgresql]

TASK = "tests.support.host_tasks.note_host"


@selection.slow
@pytest.mark.timeout(600)  # a compiler may have to be installed first
def test_host__whose_clock_is_behind(tmp_path: Path) -> None:
    notes, clock = tmp_path / "notes", Clock(tmp_path, ahead=-20)
    with working_host("alpha", tmp_path), working_host("beta", tmp_path, **clock.env):
        ids = [async_task(TASK, str(notes), number, 6.0) for number in range(12)]
        wait_until(lambda: Success.objects.count() == len(ids), timeout=40, what="all are done")
    assert runs(notes) == {str(number): 1 for number in range(12)}
    assert hosts_of(notes) == {"alpha", "beta"}
    assert not FailedAttempt.objects.exists()


@selection.slow
def test_hosts__while_the_database_is_away(tmp_path: Path) -> None:
    """Who comes back first has not seen the other's heartbeats, and takes nobody for dead."""
    notes = tmp_path / "notes"
    with working_host("alpha", tmp_path), working_host("beta", tmp_path):
        ids = [async_task(TASK, str(notes), number, 30.0) for number in range(12)]
        wait_until(lambda: runs(notes).total() == len(ids), what="all have begun")
        with environment.database_away():
            time.sleep(12)
        wait_until(lambda: Success.objects.count() == len(ids), timeout=60, what="all are done")
    assert runs(notes) == {str(number): 1 for number in range(12)}
    assert hosts_of(notes) == {"alpha", "beta"}
    assert not FailedAttempt.objects.exists()
