"""What a user can do to a task: cancel it, retry it, run it now, delete it; and who wins when a worker wants it as well."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django_q.models import OrmQ, Task
from django_q.tasks import Iter, async_task, fetch, result, result_group

from durable_queue.models import Cancellation, DeadLetter, FailedAttempt, Note, Worker
from durable_queue.states import State, held, is_held, state_of_row
from durable_queue.store.broker import Broker
from durable_queue.store.freeing import free
from durable_queue.store.leases import Row, Settlement
from durable_queue.task import preview, signing
from durable_queue.task.identifiers import new_task_id
from durable_queue.upkeep.ownerless import Ownerless
from durable_queue.upkeep.pruning import prune
from durable_queue.verbs import Came, cancel, delete, retry, run_now
from durable_queue.work import outcomes
from durable_queue.work.follow_ups import follow_up
from tests.support import selection
from tests.support.admin_site import act, held_by, post, refuse, settle, take
from tests.support.cluster_tasks import KillsWhenUnpickled
from tests.support.queue_rows import listener
from tests.support.queue_rows import worker as stored_worker
from tests.support.side_by_side import at_once

pytestmark = pytest.mark.django_db

Verb = Callable[..., Came]
VERBS = [cancel, retry, run_now, delete]
LATER = timedelta(hours=1)


def later() -> None:
    """Have the one queued task be due in an hour."""
    OrmQ.objects.update(lock=datetime.now(UTC) + LATER)


def attempt_of(row: OrmQ, outcome: str = "failed") -> None:
    """The one queued task has failed once."""
    now = datetime.now(UTC)
    FailedAttempt.objects.create(
        row=row.pk,
        task_id=preview.read(row.payload).id,
        number=1,
        outcome=outcome,
        worker="w",
        started=now,
        stopped=now,
        error="e",
    )


def failed(row: Row, *, retry_at: datetime | None) -> Settlement:
    """A failed attempt at a claimed row."""
    now = datetime.now(UTC)
    task = outcomes.read(row) | {"started": now, "stopped": now, "success": False, "result": "disk full"}
    settlement = outcomes.settle_finished(row, task, "alice")
    return settlement._replace(retry_at=retry_at)


# Cancel.


def test_cancel__a_waiting_task_ends_and_never_runs() -> None:
    task_id = post("alice", group="friends")
    assert cancel(task_id, by="bob", why="a mistake") is Came.DONE
    task = Task.objects.get(pk=task_id)
    assert (task.success, task.result, task.attempt_count) == (False, "Cancelled by bob: a mistake", 0)
    assert (task.func, task.args, task.kwargs, task.group) == (
        "notifications.tasks.write_log", ("message to alice\n",), {}, "friends",
    )  # fmt: skip
    request = Cancellation.objects.get(pk=task_id)
    assert (request.by, request.why, bool(request.heeded)) == ("bob", "a mistake", True)
    assert not OrmQ.objects.exists()


def test_cancel__whoever_waits_for_it_hears_of_it() -> None:
    task_id = post("alice", group="friends")
    cancel(task_id, by="bob")
    assert result(task_id, wait=-1) == "Cancelled by bob"
    assert list(result_group("friends", failures=True, count=1, wait=-1)) == ["Cancelled by bob"]


def test_cancel__an_iter_with_a_cancelled_part_has_failed() -> None:
    parts = Iter("tests.support.cluster_tasks.take_one")
    for number in range(2):
        parts.append(number)
    whole = parts.run()
    for row in OrmQ.objects.all():
        cancel(preview.read(row.payload).id, by="bob")
    found = fetch(whole, wait=5000)
    assert found is not None
    assert not found.success
    assert found.result == ["Cancelled by bob"] * 2


def test_cancel__queues_the_hook_and_continues_no_chain() -> None:
    task_id = async_task(
        "tests.support.cluster_tasks.take_one", 1, hook="tests.support.hook_tasks.note", chain=[("math.floor", (1.5,))]
    )
    cancel(task_id, by="bob")
    ((called, fields),) = (signing.loads(row.payload)["args"] for row in OrmQ.objects.all())
    assert (called, fields["hook"]) == (task_id, "tests.support.hook_tasks.note")
    assert (fields["args"], fields["success"], fields["result"]) == ((1,), False, "Cancelled by bob")


def test_cancel__unpickles_nothing_and_keeps_everything() -> None:
    task_id = async_task(
        "tests.support.cluster_tasks.take_one", KillsWhenUnpickled(), key={"day": datetime(2026, 1, 1, tzinfo=UTC)}
    )
    before = preview.read(OrmQ.objects.get().payload)
    assert cancel(task_id, by="bob") is Came.DONE
    assert retry(task_id, by="bob") is Came.DONE
    after = preview.read(OrmQ.objects.get().payload)
    assert (repr(after.args), after.kwargs) == (repr(before.args), before.kwargs)
    assert "_kill_with_argument" in repr(after.args)
    arguments = signing.loads(OrmQ.objects.get().payload)["args"]  # here it does no harm: tests/support/cluster_tasks.py
    assert arguments == (None,)


@pytest.mark.parametrize("is_tampered", [True, False], ids=["tampered", "signed"])
def test_cancel__what_cannot_be_read_goes_back_as_it_was(*, is_tampered: bool) -> None:
    task_id = new_task_id()
    payload = signing.dumps({"id": task_id, "name": "no function"})
    Broker().enqueue_all([f"{payload[:-1]}-" if is_tampered else payload], as_they_are=True)
    payload = OrmQ.objects.get().payload
    assert cancel(task_id, by="bob") is Came.DONE
    assert Task.objects.get(pk=task_id).name.startswith("unreadable")
    assert retry(task_id, by="bob") is Came.DONE
    assert OrmQ.objects.get().payload == payload


def test_cancel__a_running_task_is_asked_and_stays() -> None:
    task_id = post("alice")
    take(1)
    assert cancel(task_id, by="bob") is Came.ASKED
    assert cancel(task_id, by="carol") is Came.ASKED
    assert is_held(OrmQ.objects.get().lock)
    assert (Cancellation.objects.get().by, Cancellation.objects.get().heeded) == ("bob", None)


def test_cancel__of_two_ids_that_begin_alike_it_takes_the_right_one() -> None:
    one = new_task_id()
    other = one[:30] + ("00" if one[30:] != "00" else "11")
    Broker().enqueue_all(
        [signing.dumps({"id": each, "name": "n", "func": "f", "args": (), "kwargs": {}}) for each in (other, one)]
    )
    assert cancel(one, by="bob") is Came.DONE
    assert [preview.read(row.payload).id for row in OrmQ.objects.all()] == [other]


def test_cancel__an_ended_task() -> None:
    task_id = post("alice")
    settle()
    assert cancel(task_id, by="bob") is Came.REFUSED
    other = post("carol")
    cancel(other, by="bob")
    assert cancel(other, by="bob") is Came.NOTHING


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
@pytest.mark.parametrize("task_id", ["0" * 32, "no id", "", "'\0"], ids=["unknown", "no id", "empty", "garbage"])
def test_verb__an_unknown_task(verb: Verb, task_id: str) -> None:
    assert verb(task_id, by="bob") is Came.UNKNOWN


# What a worker gives back.


def broker_of_worker() -> Broker:
    """A broker as a worker has it."""
    return Broker(follow_up=follow_up)


def test_request__what_goes_back_unrun_ends() -> None:
    task_id = post("alice", hook="tests.support.hook_tasks.note")
    other = post("carol")
    worker = take(2)
    cancel(task_id, by="bob")
    change = broker_of_worker().settle_and_claim(worker, returned=held_by(worker))
    assert Task.objects.get(pk=task_id).attempt_count == 0
    assert Cancellation.objects.get().heeded
    assert {preview.read(row.payload).id for row in OrmQ.objects.all()} > {other}
    assert [row.payload for row in OrmQ.objects.all() if task_id in repr(preview.read(row.payload).args)], "its hook is queued"
    assert [settlement.task["id"] for settlement in change.settled] == [task_id]


def test_request__what_fails_is_not_tried_again() -> None:
    task_id = post("alice")
    worker = take(1)
    cancel(task_id, by="bob")
    (row,) = held_by(worker)
    change = broker_of_worker().settle_and_claim(worker, [failed(row, retry_at=datetime.now(UTC) + LATER)])
    assert [settlement.retry_at for settlement in change.settled] == [None]
    assert Task.objects.get(pk=task_id).result == "Cancelled by bob"
    assert FailedAttempt.objects.get().error == "disk full"
    assert Cancellation.objects.get().heeded
    assert not OrmQ.objects.exists()


def test_request__what_a_dead_worker_held_ends() -> None:
    task_id, other = post("alice"), post("carol")
    worker = take(2)
    cancel(task_id, by="bob")
    assert free(broker_of_worker(), worker)
    assert Task.objects.get().pk == task_id
    assert [preview.read(row.payload).id for row in OrmQ.objects.exclude(held())] == [other]


def test_request__what_nobody_owns_any_more_ends() -> None:
    task_id = post("alice")
    worker = take(1)
    cancel(task_id, by="bob")
    worker.delete()
    upkeep = Ownerless(broker_of_worker())
    upkeep.free(), upkeep.free()
    assert Task.objects.get().pk == task_id
    assert not OrmQ.objects.exists()


def test_request__what_ends_as_it_would_have_keeps_it_unheeded() -> None:
    task_id = post("alice")
    worker = take(1)
    cancel(task_id, by="bob")
    (row,) = held_by(worker)
    now = datetime.now(UTC)
    task = outcomes.read(row) | {"started": now, "stopped": now, "success": True, "result": None}
    broker_of_worker().settle_and_claim(worker, [Settlement(row=row, task=task)])
    assert Task.objects.get(pk=task_id).success
    assert Cancellation.objects.get().heeded is None


def test_request__nobody_asks_for_it_when_nothing_goes_back() -> None:
    post("alice")
    worker = take(1)
    (row,) = held_by(worker)
    now = datetime.now(UTC)
    task = outcomes.read(row) | {"started": now, "stopped": now, "success": True, "result": None}
    statements: list[str] = []

    def note(execute: Any, sql: str, *rest: Any) -> Any:
        statements.append(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(note):
        broker_of_worker().settle_and_claim(worker, [Settlement(row=row, task=task)])
    assert not [sql for sql in statements if Cancellation._meta.db_table in sql]


# Retry.


def test_retry__a_cancelled_task_is_as_if_nobody_had_cancelled_it() -> None:
    task_id = post("alice")
    cancel(task_id, by="bob")
    assert retry(task_id, by="bob") is Came.DONE
    assert not Cancellation.objects.exists()
    assert not Task.objects.exists()
    settle()
    assert Task.objects.get(pk=task_id).success


@pytest.mark.parametrize("is_ended", [True, False], ids=["succeeded", "queued"])
def test_retry__another_state(*, is_ended: bool) -> None:
    task_id = post("alice")
    if is_ended:
        settle()
    assert retry(task_id, by="bob") is Came.REFUSED


# Run now.


@pytest.mark.parametrize("attempts", [0, 1], ids=["scheduled", "retrying"])
def test_run_now__what_waits_is_due_and_wakes_a_worker(attempts: int, django_capture_on_commit_callbacks: Any) -> None:
    task_id = post("alice")
    row = OrmQ.objects.get()
    if attempts:
        attempt_of(row)
    later()
    with listener("notifier") as ear:
        with django_capture_on_commit_callbacks(execute=True):
            assert run_now(task_id, by="bob") is Came.DONE
        assert ear.wait(5) == [0]
    row.refresh_from_db()
    assert state_of_row(row.lock, attempts) is State.QUEUED
    change = Broker().settle_and_claim(stored_worker("carol"), claim=1)
    assert [claimed.attempts for claimed in change.rows] == [attempts]


def test_run_now__another_state() -> None:
    task_id = post("alice")
    assert run_now(task_id, by="bob") is Came.NOTHING
    take(1)
    assert run_now(task_id, by="bob") is Came.REFUSED
    assert is_held(OrmQ.objects.get().lock)
    OrmQ.objects.all().delete()
    other = post("carol")
    settle()
    assert run_now(other, by="bob") is Came.REFUSED


# Delete.


def test_delete__takes_all_that_belongs_to_the_task() -> None:
    task_id = post("alice")
    refuse("no task")
    Note.objects.create(task_id=task_id, text="a note")
    Cancellation.objects.create(task_id=task_id, by="bob")
    kept = post("carol")
    settle(error="e")
    assert delete(task_id, by="bob") is Came.DONE
    for kind in (FailedAttempt, Note, DeadLetter, Cancellation):
        assert not kind._default_manager.filter(task_id=task_id).exists()
    assert Task.objects.get().pk == kept
    assert FailedAttempt.objects.filter(task_id=kept).exists()
    assert delete(task_id, by="bob") is Came.UNKNOWN


def test_delete__not_while_it_lives() -> None:
    task_id = post("alice")
    attempt_of(OrmQ.objects.get())
    assert delete(task_id, by="bob") is Came.REFUSED
    take(1)
    assert delete(task_id, by="bob") is Came.REFUSED
    assert FailedAttempt.objects.count() == OrmQ.objects.count() == 1


def test_prune__a_cancellation_goes_with_its_task() -> None:
    living, gone = post("alice"), new_task_id()
    for task_id in (living, gone):
        Cancellation.objects.create(task_id=task_id, by="bob", requested=datetime.now(UTC) - LATER)
    prune(LATER / 2, using="default")
    assert [request.task_id for request in Cancellation.objects.all()] == [living]


def test_admin__deleting_a_task_deletes_its_cancellation(admin_client: Client) -> None:
    task_id = post("alice")
    cancel(task_id, by="bob")
    act(admin_client, "django_q_failure", "delete_selected", [task_id], post="yes")
    assert not Task.objects.exists()
    assert not Cancellation.objects.exists()


# Who did it.


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_verb__is_logged_with_who_and_why_and_nothing_of_the_task(verb: Verb, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durable_queue.verbs")
    task_id = post("alice@example.com")
    verb(task_id, by="bob", why="two\nlines")
    (record,) = (record for record in caplog.records if record.name == "durable_queue.verbs")
    line = record.getMessage()
    assert verb.__name__ in line
    assert task_id in line
    assert "'bob'" in line
    assert r"'two\nlines'" in line
    assert "alice" not in line


def test_cancel__a_long_name_and_text_that_no_database_stores() -> None:
    task_id = post("alice")
    assert cancel(task_id, by="b" * 1000, why="\0" + "x" * 10_000) is Came.DONE
    request = Cancellation.objects.get()
    assert (len(request.by), len(request.why)) == (150, 1000)


# Races: each is decided by one statement.

RACES = 25


def claim_one(worker: Worker) -> list[Row]:
    """A worker's claim, in a thread."""
    return Broker().settle_and_claim(worker, claim=1).rows


@pytest.mark.django_db(transaction=True)
@selection.slow_on_postgresql
def test_race__cancel_against_claim() -> None:
    for number in range(RACES):
        task_id, worker = post("alice"), stored_worker(f"worker {number}")
        came, rows = at_once(partial(cancel, task_id, by="bob"), partial(claim_one, worker))
        assert (came, len(rows)) in ((Came.DONE, 0), (Came.ASKED, 1))
        assert Task.objects.filter(pk=task_id).count() == (came is Came.DONE)
        OrmQ.objects.all().delete()


@pytest.mark.django_db(transaction=True)
@selection.slow_on_postgresql
def test_race__cancel_against_what_goes_back() -> None:
    """Either the worker sees the request, or whoever cancels sees the row: the task never waits with an open request."""
    for number in range(RACES):
        task_id, worker = post("alice"), stored_worker(f"worker {number}")
        broker_of_worker().settle_and_claim(worker, claim=1)
        rows = held_by(worker)
        came, _ = at_once(
            partial(cancel, task_id, by="bob"),
            partial(broker_of_worker().settle_and_claim, worker, returned=rows),
        )
        assert came in (Came.DONE, Came.ASKED)
        assert not OrmQ.objects.exists()
        assert Cancellation.objects.get(pk=task_id).heeded


@pytest.mark.django_db(transaction=True)
@selection.slow_on_postgresql
def test_race__run_now_against_claim() -> None:
    for number in range(RACES):
        task_id, worker = post("alice"), stored_worker(f"worker {number}")
        OrmQ.objects.update(lock=datetime.now(UTC) + timedelta(microseconds=500))
        came, rows = at_once(partial(run_now, task_id, by="bob"), partial(claim_one, worker))
        assert came in ((Came.REFUSED, Came.DONE, Came.NOTHING) if rows else (Came.DONE, Came.NOTHING))
        assert is_held(OrmQ.objects.get().lock) == bool(rows)
        OrmQ.objects.all().delete()


@pytest.mark.django_db(transaction=True)
@selection.slow_on_postgresql
@pytest.mark.parametrize(
    ("verb", "first"), [(retry, "failed"), (cancel, "queued"), (delete, "failed")], ids=["retry", "cancel", "delete"]
)
def test_race__a_verb_against_itself(verb: Verb, first: str) -> None:
    for _ in range(RACES):
        task_id = post("alice")
        if first == "failed":
            settle(error="disk full")
        came = at_once(*[partial(verb, task_id, by="bob")] * 4)
        assert sorted(came).count(Came.DONE) == 1
        OrmQ.objects.all().delete()
        Task.objects.all().delete()
