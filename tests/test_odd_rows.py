"""Rows that somebody has written by hand. On SQLite any column takes anything: one such row stops no other, and hides none."""

import json
from contextlib import suppress

import pytest
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.utils import timezone
from django_q.models import Failure, OrmQ, Schedule, Success, Task
from django_q.tasks import async_task

from durable_queue.models import FailedAttempt, Worker
from durable_queue.selection import Selection, matching
from durable_queue.states import State
from durable_queue.status import newest, status_of
from durable_queue.store.broker import Broker
from durable_queue.store.lookup import id_in_place
from durable_queue.upkeep.ownerless import Ownerless
from durable_queue.verbs import Came, cancel, delete, retry, run_now
from notifications.api.showing import as_json
from tests.support import selection
from tests.support.admin_site import TRACEBACK, page, post, settle, take
from tests.support.queue_rows import worker

pytestmark = pytest.mark.django_db(transaction=True)

BLOB = "CAST(x'ff00fe' AS BLOB)"


def lock_is(sql: str) -> tuple[int, int]:
    """Queue two tasks, and write the `lock` of the first; return their rows."""
    OrmQ.objects.all().delete()
    for number in range(2):
        async_task("tests.support.cluster_tasks.take_one", number)
    first, second = OrmQ.objects.order_by("pk").values_list("pk", flat=True)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE django_q_ormq SET lock = {sql} WHERE id = {first}")  # noqa: S608
    return first, second


GARBAGE = ["5", "0.30000000000000004", "-1", "''", "'garbage'", "'1999 garbage'", "'2026-99-99 99:99'", BLOB, "'0001-01-01'"]


@selection.on_sqlite
@pytest.mark.parametrize("sql", ["NULL", *GARBAGE])
def test_lock__that_is_no_moment_stops_no_other_and_its_task_runs_once(sql: str) -> None:
    rows = lock_is(sql)
    alice, broker = worker("alice"), Broker()
    assert broker.wait_until_due() == 0.0
    claimed = [row.id for row in broker.settle_and_claim(alice, claim=1).rows]
    claimed += [row.id for row in broker.settle_and_claim(alice, claim=100, keep=True).rows]
    assert rows[1] in claimed
    upkeep = Ownerless(broker)
    upkeep.free(), upkeep.free()
    if sql != "'2026-99-99 99:99'":  # whose turn comes with that year
        claimed += [row.id for row in broker.settle_and_claim(alice, claim=100, keep=True).rows]
        assert sorted(claimed) == sorted(rows)
    assert broker.settle_and_claim(alice, claim=100, keep=True).rows == []
    assert OrmQ.objects.filter(lock=alice.lease).count() == len(claimed)


@selection.on_postgresql
@pytest.mark.parametrize("sql", ["NULL", "'-infinity'", "'infinity'", "'0044-03-15 BC'"])
def test_lock__that_python_has_not(sql: str) -> None:
    rows = lock_is(sql)
    broker = Broker()
    upkeep = Ownerless(broker)
    upkeep.free(), upkeep.free()
    assert {row.id for row in broker.settle_and_claim(worker("alice"), claim=100).rows} == set(rows)


@pytest.mark.parametrize("sql", ["NULL", "'infinity'", "'-infinity'"])
def test_admin__shows_a_lock_that_is_no_moment(admin_client: Client, sql: str) -> None:
    first, _ = lock_is(sql)
    assert page(admin_client, "django_q_ormq_changelist").count('name="_selected_action"') == 2
    assert sql == "NULL" or f"can&#x27;t be read: {sql[1:-1]}" in page(admin_client, "django_q_ormq_change", first)


@selection.on_sqlite
@pytest.mark.parametrize("sql", GARBAGE)
def test_admin__shows_garbage_in_a_lock(admin_client: Client, sql: str) -> None:
    lock_is(sql)
    assert page(admin_client, "django_q_ormq_changelist").count('name="_selected_action"') == 2
    for row in OrmQ.objects.values_list("pk", flat=True):
        page(admin_client, "django_q_ormq_change", row)


def selected(*states: State) -> set[str]:
    """The ids of the tasks in these states."""
    return {task_id for state in states for ids in matching(Selection(state=state), batch=1) for task_id in ids}


def verbs_work_with_a_lock(sql: str) -> None:
    """A task with such a `lock`, and the one beside it, are seen, and can be acted on."""
    lock_is(sql)
    ids = {id_in_place(payload) or "" for payload in OrmQ.objects.values_list("payload", flat=True)}
    assert {each.id for each in newest(limit=5, queue="notifier")[0]} == ids
    assert {each.id for state in State for each in newest(limit=5, state=state)[0]} == ids
    assert selected(State.QUEUED, State.RUNNING) == ids
    for task_id in ids:
        status = status_of(task_id)
        assert status
        assert json.dumps(as_json(status))
        assert run_now(task_id, by="bob") in {Came.NOTHING, Came.DONE, Came.REFUSED}
        assert (retry(task_id, by="bob"), delete(task_id, by="bob")) == (Came.REFUSED, Came.REFUSED)
        assert cancel(task_id, by="bob") in {Came.DONE, Came.ASKED}


@selection.on_sqlite
@pytest.mark.parametrize("sql", ["NULL", "'infinity'", "'2026-13-45 99:00:00'", *GARBAGE])
def test_verbs__garbage_in_a_lock_keeps_no_task_back(sql: str) -> None:
    verbs_work_with_a_lock(sql)


@selection.on_postgresql
@pytest.mark.parametrize("sql", ["'-infinity'", "'infinity'", "'12000-01-01'", "'0044-03-15 BC'"])
def test_verbs__a_lock_that_python_has_not_keeps_no_task_back(sql: str) -> None:
    verbs_work_with_a_lock(sql)


def tasks_that_ended() -> dict[State, str]:
    """A task that succeeded, and two that failed, by their states: of the failed ones, the first."""
    tasks = {State.SUCCEEDED: post("alice")}
    settle(result="fine")
    tasks[State.FAILED] = post("bob")
    settle(error=TRACEBACK)
    post("carol")
    settle(error=TRACEBACK)
    return tasks


def all_are_shown(tasks: dict[State, str]) -> None:
    """Each is shown, alone and in a list; and the task beside them is there for the verbs."""
    for task_id in tasks.values():
        status = status_of(task_id)
        assert status
        assert json.dumps(as_json(status))
    assert len(newest(limit=5)[0]) == 3
    assert len(selected(State.FAILED, State.SUCCEEDED)) >= 1
    sought = Selection(state=State.FAILED, error="disk full", function="write_log", queue="notifier")
    assert len([task_id for ids in matching(sought, batch=1) for task_id in ids]) >= 1


@selection.on_sqlite
@pytest.mark.parametrize("value", [BLOB, "5", "'1999-99-99 00:00:00'"], ids=["blob", "number", "text"])
def test_status__of_a_task_whose_history_somebody_has_written(value: str) -> None:
    tasks = tasks_that_ended()
    columns = {
        "django_q_task": [*OF_TASKS, "started", "stopped", "success", "attempt_count", "cluster_worker", "cluster_queued"]
    }
    columns[FailedAttempt._meta.db_table] = ["error", "worker", "started", "stopped"]
    with connection.cursor() as cursor:
        for table, names in columns.items():
            key, ids = ("id", tuple(tasks.values())) if table == "django_q_task" else ("task_id", (tasks[State.FAILED],))
            these = f"{key} IN ({', '.join(['%s'] * len(ids))})"
            for name in names:
                with suppress(Exception):
                    cursor.execute("DROP TABLE kept")
                cursor.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {table}")  # noqa: S608
                cursor.execute(f'UPDATE {table} SET "{name}" = {value} WHERE {these}', ids)  # noqa: S608
                all_are_shown(tasks)
                old = f'(SELECT "{name}" FROM kept WHERE kept.id = {table}.id)'  # noqa: S608
                cursor.execute(f'UPDATE {table} SET "{name}" = {old} WHERE {these}', ids)  # noqa: S608


@selection.on_postgresql
@pytest.mark.parametrize("value", ["'-infinity'", "'infinity'", "'12000-01-01'", "'0044-03-15 BC'"])
def test_status__of_a_task_with_moments_that_python_has_not(value: str) -> None:
    tasks = tasks_that_ended()
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE django_q_task SET stopped = {value}, started = {value} WHERE id = ANY(%s)", [[*tasks.values()]])  # noqa: S608
        cursor.execute(f"UPDATE {FailedAttempt._meta.db_table} SET started = {value}")  # noqa: S608
    all_are_shown(tasks)


@selection.on_sqlite
def test_status__of_a_task_whose_worker_somebody_has_written() -> None:
    task_id = post("alice")
    take(1)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {Worker._meta.db_table} SET host = {BLOB}")  # noqa: S608
    status = status_of(task_id)
    assert status
    assert status.state is State.RUNNING
    assert "ff00fe" in status.worker.lower()


def rows_of_all() -> None:
    """One row at least in each list."""
    post("alice", hook="math.hypot", group="one")
    settle(result="fine")
    post("bob", hook="math.hypot", group="two")
    settle(error=TRACEBACK)
    post("carol"), take(1)
    Schedule.objects.create(name="x", func="math.hypot", hook="h", args="1", kwargs="a=1", cluster="c", next_run=timezone.now())


OF_TASKS = ["name", "func", "hook", "args", "kwargs", "result", "group", "cluster"]
OF_SCHEDULES = ["name", "func", "hook", "args", "kwargs", "schedule_type", "cron", "task", "cluster", "next_run"]


@selection.on_sqlite
@pytest.mark.parametrize(
    ("app", "name", "shown", "model", "columns"),
    [
        ("django_q", "ormq", OrmQ, OrmQ, ["key", "payload"]),
        ("django_q", "success", Success, Task, OF_TASKS),
        ("django_q", "failure", Failure, Task, OF_TASKS),
        ("django_q", "failure", Failure, FailedAttempt, ["error", "worker", "outcome"]),
        ("django_q", "schedule", Schedule, Schedule, OF_SCHEDULES),
        ("durable_queue", "worker", Worker, Worker, ["name", "queue", "host"]),
    ],
    ids=["queue", "success", "failure", "attempt", "schedule", "worker"],
)
def test_admin__shows_a_blob_in_the_place_of_a_text(  # noqa: PLR0913, PLR0917 - a list, and what is in it
    admin_client: Client, app: str, name: str, shown: type[Model], model: type[Model], columns: list[str]
) -> None:
    rows_of_all()
    key = shown._default_manager.values_list("pk", flat=True)[0]
    for column in columns:
        table = model._meta.db_table
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS kept")
            cursor.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {table}")  # noqa: S608
            cursor.execute(f'UPDATE {table} SET "{column}" = {BLOB}')  # noqa: S608
        html = page(admin_client, f"{app}_{name}_changelist")
        assert 'name="_selected_action"' in html or name == "worker", column
        page(admin_client, f"{app}_{name}_change", key)
        with connection.cursor() as cursor:
            cursor.execute(f'UPDATE {table} SET "{column}" = (SELECT "{column}" FROM kept WHERE kept.id = {table}.id)')  # noqa: S608
