"""A task's status, wherever the task is: durable_queue/status.py."""

import random
import uuid
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection
from django_q.models import OrmQ, Task
from django_q.tasks import async_task, fetch, result

from durable_queue import checks
from durable_queue.intake import packaging
from durable_queue.models import Cancellation, DeadLetter, Worker
from durable_queue.states import State
from durable_queue.status import have_ended, newest, result_of, status_of, statuses
from durable_queue.store import indexes, listing, own_columns
from durable_queue.store.broker import Broker
from durable_queue.store.databases import table_of
from durable_queue.store.finding import LONGEST
from durable_queue.store.leases import Row, Settlement
from durable_queue.store.queue_connection import own_connection
from durable_queue.store.rows import HISTORY_TABLE, QUEUE_TABLE
from durable_queue.task import beginning, preview, signing
from durable_queue.task.beginning import read_beginning
from durable_queue.task.calls import IN_ORDER, with_progress
from durable_queue.task.identifiers import new_task_id, queued_at
from durable_queue.task.policy import DEFAULT
from durable_queue.task.preview import Unreadable
from durable_queue.work import outcomes
from tests.support import selection
from tests.support.here import run_due
from tests.support.lookup_rows import RaisesWhenRead, history, package, plan_of, read_from_end_to_end
from tests.support.moving import moving
from tests.support.queue_rows import worker
from tests.support.stored_tasks import succeed_once

pytestmark = pytest.mark.django_db(transaction=True)

TAKE_ONE, FAIL = "tests.support.cluster_tasks.take_one", "tests.support.cluster_tasks.fail"
PATIENT = f"{succeed_once.__module__}.succeed_once"  # one attempt, by its decorator
ERROR = """no such file: '/srv/data/log.txt' : Traceback (most recent call last):
  File "/srv/app/tasks.py", line 7, in write
    raise FileNotFoundError(2)
app.errors.MissingError: no such file: '/srv/data/log.txt'
"""


def queued(*, due: datetime | None = None, **task: Any) -> str:
    """A task in the queue; return its id."""
    made = {**package(1), **task}
    Broker().enqueue_all([signing.dumps(made)], due=due)
    return str(made["id"])


def known(task_id: str) -> Any:
    """The status of a task that is known."""
    found = status_of(task_id)
    assert found
    return found


def take(name: str = "alice") -> tuple[Worker, list[Row]]:
    """A worker that has taken all that is due."""
    alice = worker(name)
    return alice, Broker().settle_and_claim(alice, claim=100).rows


def failing(row: Row, *, worker: Worker, retry: bool, error: str = ERROR) -> Settlement:
    """The settlement of an attempt that has failed."""
    started = datetime(2026, 11, 28, 10, tzinfo=UTC)
    task = outcomes.read(row) | {
        "started": started,
        "stopped": started + timedelta(seconds=2),
        "result": error,
        "success": False,
    }
    settled = outcomes.settle_finished(row, task, str(worker))
    return settled._replace(retry_at=datetime.now(UTC) + timedelta(hours=1) if retry else None)


def succeeding(row: Row, result: object = None, worker: str = "7 on here") -> Settlement:
    """The settlement of a success."""
    now = datetime.now(UTC)
    task = outcomes.read(row) | {"started": now, "stopped": now, "result": result, "success": True}
    return outcomes.settle_finished(row, task, worker)


# One task, through its life.


def test_status__of_a_task_that_waits() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    found = known(async_task(TAKE_ONE, 1, task_name="one"))
    assert (found.state, found.name, found.func, found.queue) == (State.QUEUED, "one", TAKE_ONE, "notifier")
    assert (found.attempts, found.started_at, found.finished_at, found.worker, found.error) == (0, None, None, "", "")
    assert (found.calls, found.calls_done, found.cancel_requested_at, found.stored_result) == (1, 0, None, None)
    assert before <= found.enqueued_at <= datetime.now(UTC)
    assert abs(found.due_at - found.enqueued_at) < timedelta(seconds=5)


def test_status__of_a_task_that_is_due_later() -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    found = known(queued(due=due))
    assert found.state is State.SCHEDULED
    assert abs(found.due_at - due) < timedelta(seconds=2)


def test_status__of_a_task_in_hand() -> None:
    task_id = queued()
    alice, _ = take()
    found = known(task_id)
    assert (found.state, found.attempts, found.worker) == (State.RUNNING, 0, str(alice)), "it may be given back unrun"
    assert (found.started_at, found.finished_at, found.due_at) == (None, None, None), "it isn't named yet"
    named = {task_id: {"started": "2026-11-28T10:00:00.000001+00:00", "calls_done": 1}, new_task_id(): {}}
    Broker().settle_and_claim(alice, keep=True, named=named)
    found = known(task_id)
    assert found.started_at == datetime(2026, 11, 28, 10, 0, 0, 1, tzinfo=UTC)
    assert found.calls_done == 1


def test_status__of_a_row_whose_worker_is_gone() -> None:
    task_id = queued()
    take()
    Worker.objects.all().delete()
    found = known(task_id)
    assert (found.state, found.worker) == (State.RUNNING, "")


def test_status__of_a_task_that_waits_for_its_next_attempt() -> None:
    task_id = queued()
    alice, (row,) = take()
    Broker().settle_and_claim(alice, [failing(row, worker=alice, retry=True)])
    found = known(task_id)
    assert (found.state, found.attempts, found.worker) == (State.RETRYING, 1, str(alice))
    assert found.error == "MissingError: no such file: '…/log.txt'"
    assert found.started_at == datetime(2026, 11, 28, 10, tzinfo=UTC)
    assert found.finished_at == datetime(2026, 11, 28, 10, 0, 2, tzinfo=UTC)
    assert found.due_at > datetime.now(UTC)
    OrmQ.objects.update(lock=datetime.now(UTC) - timedelta(seconds=1))
    assert known(task_id).state is State.QUEUED


@pytest.mark.parametrize("result", [None, 5, "text", {"a": [1]}], ids=repr)
def test_status__of_a_success(result: object) -> None:
    task_id = queued(name="one")
    alice, (row,) = take()
    Broker().settle_and_claim(alice, [succeeding(row, result, str(alice))])
    found = known(task_id)
    assert (found.state, found.name, found.func, found.queue) == (State.SUCCEEDED, "one", TAKE_ONE, "notifier")
    assert (found.attempts, found.worker, found.error, found.due_at) == (1, str(alice), "", None)
    assert (found.calls, found.calls_done) == (1, 1)
    assert None not in (found.enqueued_at, found.started_at, found.finished_at)
    assert result_of(found) == result


def test_status__of_a_failure() -> None:
    task_id = queued()
    alice, (row,) = take()
    Broker().settle_and_claim(alice, [failing(row, worker=alice, retry=False)])
    found = known(task_id)
    assert (found.state, found.attempts, found.worker, found.calls_done) == (State.FAILED, 1, str(alice), 0)
    assert found.error == "MissingError: no such file: '…/log.txt'"


@pytest.mark.parametrize("heeded", [True, False])
def test_status__of_a_task_that_was_to_be_cancelled(*, heeded: bool) -> None:
    now = datetime.now(UTC)
    task_id = history(new_task_id(), success=False).id
    Cancellation.objects.create(task_id=task_id, by="bob", requested=now, heeded=now if heeded else None)
    found = known(task_id)
    assert found.state is (State.CANCELLED if heeded else State.FAILED)
    assert found.cancel_requested_at == now
    waits = queued()
    Cancellation.objects.create(task_id=waits, by="bob", requested=now)
    assert (known(waits).state, known(waits).cancel_requested_at) == (State.QUEUED, now)


def test_status__of_a_success_that_was_to_be_cancelled() -> None:
    task_id = history(new_task_id(), success=True).id
    Cancellation.objects.create(task_id=task_id, by="bob", heeded=datetime.now(UTC))
    assert known(task_id).state is State.SUCCEEDED


def test_status__of_a_task_in_both_tables_is_where_it_is_now() -> None:
    task_id = queued()
    history(task_id, success=False)
    assert known(task_id).state is State.QUEUED
    assert statuses([task_id])[task_id].state is State.QUEUED


@pytest.mark.parametrize("task_id", ["", "short", "x" * 32, "0" * 33, "\0" * 32, "ä" * 32, "%s" * 16, "0190" * 8])
def test_status__of_no_known_task(task_id: str) -> None:
    queued()
    assert status_of(task_id) is None
    assert statuses([task_id]) == {}
    assert have_ended([task_id]) == {task_id}


def test_status__of_ids_that_begin_alike() -> None:
    first = new_task_id()
    others = [first[:30] + end for end in ("aa", "bb", "cc") if first[30:] != end]
    queued(id=first, name="first")
    queued(id=others[0], name="second")
    history(others[1], success=True)
    found = statuses([first, *others])
    assert {task_id: status.name for task_id, status in found.items()} == {
        first: "first",
        others[0]: "second",
        others[1]: "a task",
    }


# What payloads hold.

CALLS: tuple[Any, ...] = tuple((path, (number,), {}) for number, path in enumerate((TAKE_ONE, PATIENT, TAKE_ONE)))


def test_calls__of_a_task_that_goes_on_after_a_retry() -> None:
    task_id = queued(func=IN_ORDER, args=with_progress(CALLS, [1]))
    found = known(task_id)
    assert (found.calls, found.calls_done) == (3, 1)
    alice, (row,) = take()
    named = {task_id: {"started": datetime.now(UTC).isoformat(), "calls_done": 2}}
    Broker().settle_and_claim(alice, keep=True, named=named)
    assert known(task_id).calls_done == 2
    Broker().settle_and_claim(alice, [failing(row, worker=alice, retry=False)])
    found = known(task_id)
    assert (found.state, found.calls, found.calls_done) == (State.FAILED, 3, 1)


def test_calls__of_a_success() -> None:
    task_id = queued(func=IN_ORDER, args=CALLS)
    alice, (row,) = take()
    Broker().settle_and_claim(alice, [succeeding(row)])
    assert (known(task_id).calls, known(task_id).calls_done) == (3, 3)


def test_max_attempts__of_a_function_and_of_the_next_call() -> None:
    assert known(queued()).max_attempts == DEFAULT.attempts
    assert known(queued(func=PATIENT)).max_attempts == 1
    assert known(queued(func=IN_ORDER, args=CALLS)).max_attempts == DEFAULT.attempts
    assert known(queued(func=IN_ORDER, args=with_progress(CALLS, [1]))).max_attempts == 1
    assert known(queued(ack_failure=True)).max_attempts == 1
    assert known(queued(func="tests.support.raises_on_import.function")).max_attempts == DEFAULT.attempts, "it is not imported"


GARBAGE: dict[str, Any] = {
    "wrong signature": lambda payload: payload[:-1] + ("A" if payload[-1] != "A" else "B"),
    "cut off": lambda payload: payload[:100],
    "cut off in the id": lambda payload: payload[:72],
}


@pytest.mark.parametrize("spoil", GARBAGE.values(), ids=GARBAGE)
def test_status__of_a_payload_that_can_not_be_read(spoil: Any) -> None:
    task_id = queued()
    OrmQ.objects.update(payload=spoil(OrmQ.objects.get().payload))
    found = known(task_id)
    assert (found.state, found.name, found.func, found.queue) == (State.QUEUED, "unreadable", "", "notifier")
    assert (found.calls, found.calls_done) == (1, 0)


ODD = {
    "calls that are none": {"func": IN_ORDER, "args": (1, None, (), ("x",), [5])},
    "arguments that are none": {"func": IN_ORDER, "args": 5},
    "a name that is none": {"name": None},
    "a function that is none": {"func": 5},
    "a moment that is none": {"started": "yesterday"},
    "a moment without a zone": {"started": datetime(2026, 1, 1)},  # noqa: DTZ001
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("make", [new_task_id, lambda: uuid.uuid4().hex], ids=["our id", "another id"])
def test_status__of_odd_tasks(odd: dict[str, Any], make: Any) -> None:
    assert known(queued(id=make(), **odd)).state is State.QUEUED


def test_status__runs_nothing_that_a_payload_names() -> None:
    """A function itself, as django-q2 lets one queue it, and a class that raises when it is made."""
    found = known(queued(func=packaging.enqueue, args=(RaisesWhenRead(SystemExit),)))
    assert (found.func, found.max_attempts) == ("durable_queue.intake.packaging.enqueue", DEFAULT.attempts)


def test_status__of_a_task_with_a_moment_in_a_zone() -> None:
    """A zone is a stand-in, which Python's own classes refuse."""
    zone = ZoneInfo("Europe/Berlin")
    moments = datetime(2026, 3, 1, 12, tzinfo=zone), time(12, tzinfo=zone), datetime(2026, 3, 1, 12, tzinfo=UTC)
    task_id = queued(name="zoned", args=moments)
    found = known(task_id)
    assert (found.name, found.func) == ("zoned", TAKE_ONE)
    first, second, third = preview.read(OrmQ.objects.get().payload).args
    assert repr(first).startswith("datetime.datetime(")
    assert repr(second).startswith("datetime.time(")
    assert third == moments[2]


def test_beginning__is_all_that_is_read_of_a_long_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = signing.dumps({**package(1), "name": "long", "args": ("x" * (3 * LONGEST),)})
    assert read_beginning(payload).name == "long"
    decode = mock.Mock(wraps=urlsafe_b64decode)
    monkeypatch.setattr(beginning, "urlsafe_b64decode", decode)
    assert read_beginning(payload[:LONGEST]).func == TAKE_ONE
    assert len(decode.call_args.args[0]) <= 4096


@pytest.mark.parametrize("size", [LONGEST // 2, 3 * LONGEST])
def test_status__of_a_long_payload(size: int) -> None:
    found = known(queued(name="long ä", args=("x" * size, {"a": [1]})))
    assert (found.state, found.name, found.func, found.calls) == (State.QUEUED, "long ä", TAKE_ONE, 1)


def test_status__of_a_long_result() -> None:
    task_id = queued()
    alice, (row,) = take()
    Broker().settle_and_claim(alice, [succeeding(row, list(range(500_000)))])
    found = known(task_id)
    assert found.stored_result is not None
    assert len(found.stored_result) == LONGEST + 1
    assert isinstance(result_of(found), Unreadable)


def test_enqueued_at__of_ids_that_do_not_tell() -> None:
    started = datetime(2026, 11, 1, tzinfo=UTC)
    stock = uuid.uuid4().hex
    queued(id=stock, started=started)
    assert known(stock).enqueued_at == started
    unknown = queued(id=uuid.uuid4().hex)
    assert known(unknown).enqueued_at == known(unknown).due_at
    alice, rows = take()
    Broker().settle_and_claim(alice, [succeeding(row) for row in rows])
    assert known(stock).enqueued_at is None, "as another program's worker leaves it"


def test_worker_and_enqueued_at__of_ended_tasks(tmp_path: Path) -> None:
    """As attempts leave them, whatever becomes of them."""
    started = datetime(2026, 11, 1, tzinfo=UTC)
    stock, ours, fails = (
        queued(id=task_id, started=started, func=func)
        for task_id, func in ((uuid.uuid4().hex, TAKE_ONE), (new_task_id(), TAKE_ONE), (uuid.uuid4().hex, PATIENT))
    )
    run_due(tmp_path)
    assert (known(stock).enqueued_at, known(stock).worker) == (started, "alice")
    assert known(ours).worker == "alice"
    assert known(ours).enqueued_at == queued_at(ours)
    assert (known(fails).state, known(fails).enqueued_at, known(fails).worker) == (State.FAILED, started, "alice")


def test_worker__of_a_task_that_ran_again() -> None:
    task_id = queued()
    alice, (row,) = take()
    Broker().settle_and_claim(alice, [succeeding(row, None, "1 on a")])
    queued(id=task_id)
    (row,) = Broker().settle_and_claim(alice, claim=1).rows
    Broker().settle_and_claim(alice, [succeeding(row, None, "2 on b")])
    assert known(task_id).worker == "2 on b"


def test_refused__keeps_the_id_the_name_and_the_function(tmp_path: Path) -> None:
    task_id = queued(name="poison", args=(RaisesWhenRead(ValueError),), hook="math.hypot")
    run_due(tmp_path)
    assert DeadLetter.objects.get().task_id == task_id
    found = known(task_id)
    assert (found.state, found.name, found.func, found.worker) == (State.FAILED, "poison", TAKE_ONE, "alice")
    assert found.error.startswith("The payload can't be unpickled: ValueError")
    task = fetch(task_id)
    assert task
    assert (task.name, task.hook, result(task_id)) == ("poison", "math.hypot", task.result)


# Our own columns, without which the history goes on.


@pytest.fixture
def rebuilt() -> Iterator[None]:
    """django-q2's table, as a migration of django-q2 leaves it on SQLite: without our columns."""
    with connection.cursor() as cursor:
        for name in own_columns.NAMES:
            cursor.execute(f"ALTER TABLE {HISTORY_TABLE} DROP COLUMN {name}")
    yield
    indexes.restore_missing("default")


def settle_one() -> str:
    """Have a task succeed; return its id."""
    task_id = queued()
    alice, (row,) = take(uuid.uuid4().hex)
    try:
        Broker().settle_and_claim(alice, [succeeding(row)])
    except DatabaseError:  # as a worker does: it tries again
        assert connection.vendor == "postgresql"
        Broker().settle_and_claim(alice, [succeeding(row)])
    return task_id


@pytest.mark.usefixtures("rebuilt")
def test_own_columns__while_they_are_missing() -> None:
    for _ in range(2):
        found = known(settle_one())
        assert (found.state, found.worker) == (State.SUCCEEDED, "")
    (warning,) = checks.check_indexes(None, databases=["default"])
    assert "cluster_worker, cluster_queued" in str(warning.msg)
    call_command("migrate", verbosity=0, skip_checks=True)
    assert checks.check_indexes(None, databases=["default"]) == []
    assert known(settle_one()).worker == "7 on here"


@pytest.mark.usefixtures("rebuilt")
def test_own_columns__a_reader_that_finds_them_missing() -> None:
    assert known(history(new_task_id(), success=True).id).worker == ""


@selection.on_sqlite
def test_own_columns__are_lost_to_a_rebuild_and_restored() -> None:
    task_id = settle_one()
    with connection.schema_editor() as editor:
        editor._remake_table(Task)  # type: ignore[attr-defined]
    assert known(task_id).state is State.SUCCEEDED
    call_command("migrate", verbosity=0, skip_checks=True)
    assert (known(task_id).worker, known(settle_one()).worker) == ("", "7 on here")


# Several, and the database.


def test_have_ended__of_thousands_by_one_statement() -> None:
    task_ids = [new_task_id() for _ in range(3000)]
    waiting = set(random.sample(task_ids, 200))
    Broker().enqueue_all([signing.dumps(package() | {"id": task_id}) for task_id in waiting])
    history(task_ids[0], success=False)
    with mock.patch.object(type(table_of(connection)), "run", autospec=True, side_effect=type(table_of(connection)).run) as run:
        assert have_ended(task_ids) == set(task_ids) - waiting
    assert run.call_count == 1
    assert have_ended([]) == set()


def test_statuses__while_a_task_goes_from_one_table_to_the_other() -> None:
    task_id, seen = new_task_id(), set()
    payload = signing.dumps(package() | {"id": task_id})
    Broker().enqueue(payload)
    with moving(payload, lambda: history(task_id, success=False)):
        for _ in range(1000):
            seen.add(known(task_id).state)
    assert seen == {State.QUEUED, State.FAILED}


@pytest.fixture
def full() -> Iterator[list[str]]:
    """Long tables that the database has no statistics of; gives the ids of some tasks."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"SET statement_timeout = 0; TRUNCATE {QUEUE_TABLE}, {HISTORY_TABLE}")
            for table in (QUEUE_TABLE, HISTORY_TABLE):
                cursor.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
            made = "generate_series(1, 100000) AS number"
            task_id = "'0190' || lpad(to_hex(number), 8, '0') || '7' || lpad(to_hex(number), 19, '0')"
        else:
            made = "(WITH RECURSIVE n(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n LIMIT 100000) SELECT * FROM n)"
            task_id = "printf('0190%08x7%019x', number, number)"
        at = "'2026-01-01 00:00:00+00:00'"
        cursor.execute(
            f"INSERT INTO {HISTORY_TABLE} (id, name, func, started, stopped, success, attempt_count) "  # noqa: S608
            f"SELECT {task_id}, 'n', 'f', {at}, {at}, number % 50 > 0, 1 FROM {made}"
        )
    tasks = [package(number) for number in range(3000)]
    Broker().enqueue_all([signing.dumps(task) for task in tasks])
    yield [*(task["id"] for task in tasks[:200]), *Task.objects.order_by("?").values_list("id", flat=True)[:200]]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            for table in (QUEUE_TABLE, HISTORY_TABLE):
                cursor.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")
            cursor.execute("RESET statement_timeout")
        else:
            cursor.execute("DROP TABLE IF EXISTS sqlite_stat1")


@pytest.mark.parametrize("analyzed", [False, True], ids=["without statistics", "with statistics"])
def test_plans__look_up_by_indexes(full: list[str], monkeypatch: pytest.MonkeyPatch, *, analyzed: bool) -> None:
    monkeypatch.setattr(listing, "SCANNED", 100)  # of a queue that is no longer than this, all is read
    with connection.cursor() as cursor:
        for table in (QUEUE_TABLE, HISTORY_TABLE) if analyzed else ():
            cursor.execute(f"ANALYZE {table}")
    for state in (None, *State):
        for queue in ("", "notifier"):
            plan = plan_of(connection, lambda s=state, q=queue: newest(limit=5, state=s, queue=q))  # type: ignore[misc]
            assert read_from_end_to_end(plan) == []
    for ids in (full[:1], full[-1:], full):
        plan = plan_of(connection, lambda ids=ids: statuses(ids))  # type: ignore[misc]
        assert "cluster_task" in plan
        assert read_from_end_to_end(plan) == []
        assert set(statuses(ids)) == set(ids)
        plan = plan_of(connection, lambda ids=ids: have_ended(ids))  # type: ignore[misc]
        assert "cluster_task" in plan
        assert read_from_end_to_end(plan) == []
    with own_connection() as own:
        assert read_from_end_to_end(plan_of(own, lambda: statuses(full, using="default"))) == []
