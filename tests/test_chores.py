"""Pruning: what goes with a task, what is counted while it waits, and what keeps a row from being deleted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models.signals import pre_delete
from django.utils import timezone
from django_q.models import Failure, OrmQ, Success, Task
from django_q.tasks import async_task

from durable_queue.models import DeadLetter, FailedAttempt, Note
from durable_queue.task.identifiers import new_task_id
from durable_queue.upkeep import pruning
from durable_queue.verbs import Came, retry
from tests.support import selection
from tests.support.here import run_due
from tests.support.promised_tasks import notes_file

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)
LONG_AGO = timedelta(days=3)


def prune() -> int:
    """Prune what is older than a day; return how many rows that were."""
    return pruning.prune(DAY, using="default")


def age() -> None:
    """Let all that is on record be of long ago."""
    FailedAttempt.objects.update(stopped=timezone.now() - LONG_AGO)
    for model in (DeadLetter, Note):
        model._default_manager.update(at=timezone.now() - LONG_AGO)
    Task.objects.update(stopped=timezone.now() - LONG_AGO)


def ended(at: datetime, *, success: bool = True) -> str:
    """A task that ended at that moment, with an attempt, a note and a payload."""
    task_id = new_task_id()
    Task.objects.create(id=task_id, name="old", func="a.b", started=at, stopped=at, success=success)
    FailedAttempt.objects.create(row=0, task_id=task_id, number=1, outcome="failed", worker="w", started=at, stopped=at)
    Note.objects.create(task_id=task_id, text="a remark", at=at)
    DeadLetter.objects.create(task_id=task_id, queue="notifier", payload="", reason="", at=at)
    return task_id


def numbers() -> list[int]:
    """The numbers of all attempts."""
    return list(FailedAttempt.objects.order_by("pk").values_list("number", flat=True))


def test_attempts__of_a_row_that_waits_are_counted_for_ever(tmp_path: Path) -> None:
    """`@retry(attempts=2)`, each attempt a long time after the other: the second is the last."""
    async_task("tests.support.promised_tasks.fail_twice_at_most")
    run_due(tmp_path)
    Note.objects.create(task_id=FailedAttempt.objects.get().task_id, text="a remark")
    age()
    assert prune() == 0
    run_due(tmp_path)
    assert numbers() == [1, 2]
    assert Failure.objects.get().attempt_count == 2
    assert not OrmQ.objects.exists()
    notes_file().unlink(missing_ok=True)


def test_attempts__go_with_their_task(tmp_path: Path) -> None:
    async_task("math.hypot", "no number", ack_failure=True)
    run_due(tmp_path)
    FailedAttempt.objects.update(stopped=timezone.now() - LONG_AGO)
    assert prune() == 0, "the task ended today"
    age()
    assert prune() == 2
    assert not FailedAttempt.objects.exists()


def test_attempts__of_a_task_that_was_submitted_again_stay(tmp_path: Path) -> None:
    task_id = async_task("math.hypot", "no number", ack_failure=True)
    run_due(tmp_path)
    Note.objects.create(task_id=task_id, text="a remark")
    age()
    assert retry(task_id, by="alice") is Came.DONE
    assert prune() == 0
    assert (FailedAttempt.objects.count(), Note.objects.count()) == (1, 1)
    OrmQ.objects.all().delete()
    assert prune() == 2


def test_attempts__of_a_row_that_can_not_be_read_are_counted_too() -> None:
    """Each has an id of its own, since nobody knows the task's."""
    at = timezone.now() - LONG_AGO
    row = OrmQ.objects.create(key="notifier", payload="garbage", lock=timezone.now())
    for number in (1, 2):
        own = {"task_id": new_task_id(), "outcome": "lost", "worker": "w", "started": at, "stopped": at}
        FailedAttempt.objects.create(row=row.pk, number=number, **own)
    assert prune() == 0
    row.delete()
    assert prune() == 2


def test_prune__takes_all_that_belongs_to_a_task() -> None:
    old = [ended(timezone.now() - LONG_AGO, success=success) for success in (True, False)]
    young = [ended(timezone.now(), success=success) for success in (True, False)]
    assert prune() == 8
    for model, field in ((Task, "id"), (FailedAttempt, "task_id"), (Note, "task_id"), (DeadLetter, "task_id")):
        assert set(model._default_manager.values_list(field, flat=True)) == set(young), model
    assert set(old).isdisjoint(young)


def test_prune__what_belongs_to_nothing() -> None:
    """Its id may be none, and its task may have been deleted by hand."""
    at = timezone.now() - LONG_AGO
    for task_id in ("", "alice", new_task_id()):
        Note.objects.create(task_id=task_id, text="a remark", at=at)
        FailedAttempt.objects.create(row=0, task_id=task_id, number=1, outcome="lost", worker="w", started=at, stopped=at)
    assert prune() == 6


def test_prune__looks_behind_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)
    at = timezone.now() - LONG_AGO
    queued = [async_task("math.hypot", 3, 4) for _ in range(5)]
    for task_id in (*queued, new_task_id()):
        Note.objects.create(task_id=task_id, text="a remark", at=at)
    assert prune() == 1
    assert set(Note.objects.values_list("task_id", flat=True)) == set(queued)


@contextmanager
def receiving(sender: Any, receiver: Any) -> Iterator[None]:
    """A receiver of deletions, as a project may have."""
    pre_delete.connect(receiver, sender=sender)
    try:
        yield
    finally:
        pre_delete.disconnect(receiver, sender=sender)


@pytest.mark.parametrize("error", [ValueError("no"), IntegrityError("protected")], ids=["any error", "a foreign key"])
def test_prune__a_receiver_that_objects_to_one(error: Exception) -> None:
    bad, *_ = (ended(timezone.now() - LONG_AGO) for _ in range(5))

    def object_to_one(instance: Task, **_: object) -> None:
        if instance.pk == bad:
            raise error

    with receiving(Task, object_to_one):
        assert prune() == 4 * 4
    assert Success.objects.get().pk == bad
    assert FailedAttempt.objects.get().task_id == Note.objects.get().task_id == bad


def test_prune__a_kind_that_fails_costs_no_other() -> None:
    ended(timezone.now() - LONG_AGO)
    Note.objects.create(task_id="alice", text="a remark", at=timezone.now() - LONG_AGO)

    def fail(**_: object) -> None:
        raise DatabaseError("database is locked")

    with receiving(Task, fail), pytest.raises(DatabaseError):
        prune()
    assert list(Note.objects.exclude(task_id="alice")) == list(Note.objects.all())


@selection.on_postgresql
def test_prune__passes_by_what_others_have_locked() -> None:
    held, free = (ended(timezone.now() - LONG_AGO) for _ in range(2))
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Task.objects.select_for_update().get(pk=held)
            locked.set()
            done.wait(20)
        connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert locked.wait(20)
        assert prune() == 4
        assert not Task.objects.filter(pk=free).exists()
    finally:
        done.set()
        holder.join()
    assert prune() == 4


def test_prune__goes_on_behind_a_batch_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver objects to as many as are deleted at a time; those behind them go."""
    monkeypatch.setattr(pruning, "BATCH", 3)
    for _ in range(5):
        ended(timezone.now() - LONG_AGO)
    stay = set(Success.objects.order_by().values_list("pk", flat=True)[:3])

    def object_to_these(instance: Task, **_: object) -> None:
        if instance.pk in stay:
            raise ValueError("it stays")

    with receiving(Task, object_to_these):
        while prune():
            pass
    assert set(Success.objects.values_list("pk", flat=True)) == stay
