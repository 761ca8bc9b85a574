"""notifications/finished.py and the keys that tasks write under: what is remembered of a task, and for how long."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ, Task
from django_q.signing import SignedPackage

from notifications.cluster.identifiers import new_task_id
from notifications.cluster.models import Attempt
from notifications.cluster.running import RunningTask, current_task
from notifications.finished import MARGIN, finished
from notifications.tasks import write_log, write_notification

pytestmark = pytest.mark.django_db(transaction=True)

OLD = f"{int((timezone.now() - timedelta(days=2)).timestamp() * 1000):012x}7aaa8aaaaaaaaaaaaaaa"


def in_history(task_id: str, *, success: bool) -> None:
    """A task that has ended."""
    now = timezone.now()
    Task.objects.create(id=task_id, name="a task", func="a.b", started=now, stopped=now, success=success)


def in_queue(task_id: str) -> None:
    """A task that waits."""
    OrmQ.objects.create(key="notifier", payload=SignedPackage.dumps({"id": task_id}), lock=timezone.now())


def attempted(task_id: str) -> None:
    """A task one of whose attempts has failed."""
    now = timezone.now()
    Attempt.objects.create(row=1, task_id=task_id, number=1, outcome="failed", worker="w", started=now, stopped=now)


def is_finished(task_id: str) -> bool:
    """What the journal is told."""
    return finished({bytes.fromhex(task_id)}) == {bytes.fromhex(task_id)}


def test_finished__succeeded() -> None:
    in_history(OLD, success=True)
    in_queue(new_task_id())
    assert is_finished(OLD)


def test_finished__failed_and_may_be_submitted_again() -> None:
    in_history(OLD, success=False)
    assert not is_finished(OLD)


def test_finished__failed_and_submitted_again() -> None:
    attempted(OLD)
    in_queue(OLD)
    assert not is_finished(OLD)


def test_finished__deleted_from_history() -> None:
    assert is_finished(OLD)
    in_queue(new_task_id())
    assert is_finished(OLD)


def test_finished__somewhere_in_the_queue() -> None:
    """It is not looked for there: it is enough that the oldest row may be as old."""
    in_queue(new_task_id())
    assert not is_finished(new_task_id())


@pytest.mark.parametrize("payload", ["", "x", "a:b:c", "a:!!:c", "a:zzzzzzzzzzzzzzzz:c"])
def test_finished__the_oldest_row_does_not_tell(payload: str) -> None:
    OrmQ.objects.create(key="notifier", payload=payload, lock=timezone.now())
    assert not is_finished(OLD)


def test_finished__an_id_that_tells_no_time() -> None:
    in_queue(new_task_id())
    assert not is_finished("0" * 12 + "4" + "0" * 19)


def test_finished__a_clock_that_was_set_back() -> None:
    in_queue(new_task_id())
    queued = timezone.now() - MARGIN / 2
    assert not is_finished(f"{int(queued.timestamp() * 1000):012x}7aaa8aaaaaaaaaaaaaaa")


def test_finished__not_in_somebody_elses_transaction() -> None:
    in_history(OLD, success=True)
    with transaction.atomic():
        assert not is_finished(OLD)


def test_finished__many_at_once() -> None:
    ids = [new_task_id() for _ in range(1_200)]
    now = timezone.now()
    Task.objects.bulk_create(
        Task(id=pk, name="a task", func="a.b", started=now, stopped=now, success=number % 2 == 0)
        for number, pk in enumerate(ids)
    )
    assert finished({bytes.fromhex(pk) for pk in ids}) == {bytes.fromhex(pk) for pk in ids[::2]}


# The keys.


@pytest.fixture
def attempt() -> Iterator[Callable[[str], RunningTask]]:
    """Begin an attempt of a task, as a worker does."""

    def begin(task_id: str) -> RunningTask:
        task = RunningTask(task_id)
        current_task.set(task)
        return task

    yield begin
    current_task.set(None)


def test_write_log__a_second_attempt(log_file: Path, attempt: Callable[[str], RunningTask]) -> None:
    """It skips what stands there, and goes on from where the first one stopped."""
    task_id = new_task_id()
    attempt(task_id)
    assert write_log("one\n") is None
    task = attempt(task_id)
    assert write_log("one\n") == "an earlier attempt had written it"
    assert write_log("one\n") is None
    task.begin_step(1, "", None)
    assert write_log("one\n") is None
    assert log_file.read_text() == "one\none\none\n"


def test_write_log__outside_of_a_task(log_file: Path) -> None:
    write_log("one\n")
    write_log("one\n")
    assert log_file.read_text() == "one\none\n"


def test_write_notification__late(log_file: Path, attempt: Callable[[str], RunningTask]) -> None:
    """The retry of an older task does not wipe what a newer one wrote, and history says so."""
    older, newer = new_task_id(), new_task_id()
    attempt(newer)
    assert write_notification("bob", "newer") is None
    attempt(older)
    assert write_notification("alice", "older") == "superseded by a newer write"
    assert log_file.read_text() == "notification for bob: newer"
