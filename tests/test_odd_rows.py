"""Rows that somebody has written by hand. On SQLite any column takes anything: one such row stops no other, and hides none."""

import pytest
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.utils import timezone
from django_q.models import Failure, OrmQ, Schedule, Success, Task
from django_q.tasks import async_task

from durable_queue.models import FailedAttempt, Worker
from durable_queue.store.broker import Broker
from durable_queue.upkeep.ownerless import Ownerless
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
