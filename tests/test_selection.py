"""A verb for all tasks that match a filter."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django_q.models import OrmQ, Task
from django_q.tasks import async_task

from durable_queue import selection as selecting
from durable_queue.models import FailedAttempt
from durable_queue.selection import ERRORS, Progress, Selection, bounded, for_all, matching
from durable_queue.states import State
from durable_queue.task import preview
from durable_queue.task.preview import STORED
from durable_queue.verbs import Came, cancel, delete, retry, run_now
from tests.support import selection
from tests.support.admin_site import TRACEBACK, post, settle, take
from tests.support.full_disk import full

pytestmark = pytest.mark.django_db

LATER = timedelta(hours=1)


def row_of(task_id: str) -> OrmQ:
    """A task's row."""
    return next(row for row in OrmQ.objects.all() if preview.read(row.payload).id == task_id)


def put_off(task_id: str, *, is_tried: bool = False) -> None:
    """Have a task be due in an hour."""
    row = row_of(task_id)
    OrmQ.objects.filter(pk=row.pk).update(lock=datetime.now(UTC) + LATER)
    if is_tried:
        moments = dict.fromkeys(("started", "stopped"), datetime.now(UTC))
        FailedAttempt.objects.create(row=row.pk, task_id=task_id, number=1, outcome="failed", error="", **moments)


def one_in_each_state() -> dict[State, str]:
    """A task in each state, by the states."""
    tasks = {State.SUCCEEDED: post("succeeded")}
    settle()
    tasks[State.FAILED] = post("failed")
    settle(error=TRACEBACK)
    tasks[State.CANCELLED] = post("cancelled")
    cancel(tasks[State.CANCELLED], by="bob")
    tasks[State.RUNNING] = post("running")
    take(1)
    tasks[State.QUEUED], tasks[State.SCHEDULED], tasks[State.RETRYING] = (post(name) for name in ("queued", "later", "again"))
    put_off(tasks[State.SCHEDULED])
    put_off(tasks[State.RETRYING], is_tried=True)
    return tasks


def found(state: str, **filters: Any) -> list[str]:
    """The ids of a selection."""
    return [task_id for ids in matching(Selection(state=State(state), **filters)) for task_id in ids]


def test_selection__by_state() -> None:
    tasks = one_in_each_state()
    assert {state: found(state=state) for state in State} == {state: [tasks[state]] for state in State}


def test_selection__by_function_and_error_of_failed_ones() -> None:
    write, take_one = post("alice"), async_task("tests.support.cluster_tasks.take_one", 1)
    settle(error=TRACEBACK)
    assert found(state="failed", function="notifications.tasks.write_log") == [write]
    assert found(state="failed", function="take_one") == [take_one]
    assert found(state="failed", function="ake_one") == []
    assert found(state="failed", error="DISK full") == [write, take_one]
    assert found(state="failed", error="no route") == []


def test_selection__by_queue() -> None:
    here, there = post("alice"), async_task("math.floor", 1.5, cluster="second")
    assert found(state="queued", queue="notifier") == [here]
    assert found(state="queued", queue="second") == [there]
    settle()
    assert found(state="succeeded", queue="notifier") == [here]
    assert found(state="succeeded", queue="second") == []


def test_selection__by_age() -> None:
    early, moment, late = post("alice"), datetime.now(UTC) + timedelta(milliseconds=2), ""
    while datetime.now(UTC) < moment + timedelta(milliseconds=2):
        pass
    late = post("carol")
    assert found(state="queued", before=moment) == [early]
    assert found(state="queued", before=moment + LATER) == [early, late]
    settle(error=TRACEBACK)
    assert found(state="failed", before=moment) == [], "of those that have ended, it is their end that counts"
    assert found(state="failed", before=moment + LATER) == [early, late]


@pytest.mark.parametrize(
    ("state", "filters"),
    [
        (State.QUEUED, {"function": "f"}),
        (State.RUNNING, {"error": "e"}),
        (State.SUCCEEDED, {"error": "e"}),
    ],
    ids=["function of queued", "error of running", "error of succeeded"],
)
def test_selection__what_does_not_go_together(state: State, filters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="have"):
        Selection(state=state, **filters)


@pytest.mark.parametrize(
    ("verb", "state"),
    [(cancel, State.QUEUED), (run_now, State.SCHEDULED), (retry, State.FAILED), (delete, State.FAILED)],
    ids=["cancel", "run now", "retry", "delete"],
)
def test_for_all__in_batches(verb: Callable[..., Came], state: State) -> None:
    ids = [post(str(number)) for number in range(5)]
    if state is State.FAILED:
        settle(error=TRACEBACK)
    elif state is State.SCHEDULED:
        for task_id in ids:
            put_off(task_id)
    assert list(for_all(verb, Selection(state=state), by="bob", batch=2)) == [(2, 0), (4, 0), (5, 0)]
    assert found(state=state) == []


def test_for_all__nothing_there() -> None:
    assert list(for_all(cancel, Selection(state=State.QUEUED), by="bob")) == []


@pytest.mark.parametrize("state", [State.QUEUED, State.FAILED])
def test_for_all__ends_while_new_ones_come(state: State) -> None:
    def end_and_make_another(task_id: str, **options: Any) -> Came:
        post("another")
        if state is State.FAILED:
            settle(error=TRACEBACK)
        return cancel(task_id, **options) if state is State.QUEUED else delete(task_id, **options)

    for _ in range(4):
        post("alice")
    if state is State.FAILED:
        settle(error=TRACEBACK)
    assert list(for_all(end_and_make_another, Selection(state=state), by="bob", batch=1))[-1] == Progress(4, 0)
    assert len(found(state=state)) == 4


def test_for_all__what_cannot_be_changed_stops_no_other() -> None:
    ids = [post(name) for name in ("alice", "bob", "carol")]
    settle(error=TRACEBACK)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_q_task SET args = 'gone' WHERE id = %s", [ids[1]])
    assert list(for_all(retry, Selection(state=State.FAILED), by="bob")) == [(2, 1)]
    assert found(state=State.FAILED) == [ids[1]]


def test_for_all__the_log_names_no_task(caplog: pytest.LogCaptureFixture) -> None:
    task_id = post("alice")
    settle(error=TRACEBACK)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_q_task SET args = 'gone', name = 'message to alice' WHERE id = %s", [task_id])
    with caplog.at_level(logging.WARNING, "durable_queue.verbs"):
        assert list(for_all(retry, Selection(state=State.FAILED), by="bob")) == [(0, 1)]
    assert task_id in caplog.text
    assert "alice" not in caplog.text


def test_for_all__what_no_task_would_survive_ends_it() -> None:
    asked = []

    def fail(task_id: str, **options: Any) -> Came:
        asked.append(task_id)
        raise full()

    for name in ("alice", "bob"):
        post(name)
    with pytest.raises(OperationalError):
        list(for_all(fail, Selection(state=State.QUEUED), by="bob"))
    assert len(asked) == 1


@pytest.mark.parametrize("state", [State.QUEUED, State.FAILED])
def test_bounded__goes_through_the_same_tasks_each_time(state: State) -> None:
    def make(name: str) -> str:
        task_id = post(name)
        if state is State.FAILED:
            settle(error=TRACEBACK)
        return task_id

    first = make("alice")
    fixed = bounded(Selection(state=state))
    make("carol")
    for _ in range(2):
        assert [task_id for ids in matching(fixed) for task_id in ids] == [first]
    assert len(found(state=state)) == 2


def test_matching__reads_few_errors_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ERRORS * STORED <= 32 << 20
    monkeypatch.setattr(selecting, "ERRORS", 2)
    ids = [post(str(number)) for number in range(5)]
    settle(error=TRACEBACK)
    with CaptureQueriesContext(connection) as queries:
        assert found(state="failed", error="disk full") == ids
    steps = [query["sql"] for query in queries if '"result"' in query["sql"]]
    assert len(steps) >= 3
    assert all(sql.endswith("LIMIT 2") for sql in steps)


def test_for_all__stopped_halfway_leaves_whole_tasks() -> None:
    for name in ("alice", "bob", "carol"):
        post(name)
    going = for_all(cancel, Selection(state=State.QUEUED), by="bob", batch=1)
    next(going)
    del going
    assert (OrmQ.objects.count(), Task.objects.count()) == (2, 1)


@selection.once
@pytest.mark.parametrize(("state", "index"), [(State.FAILED, "cluster_failures"), (State.QUEUED, "INTEGER PRIMARY KEY")])
def test_matching__each_step_goes_by_an_index(state: State, index: str) -> None:
    for _ in range(3):
        post("alice")
    if state is State.FAILED:
        settle(error=TRACEBACK)
    with CaptureQueriesContext(connection) as queries:
        list(matching(Selection(state=state), batch=1))
    if state is State.QUEUED:  # these statements are the driver's own
        statements = ["SELECT id FROM django_q_ormq WHERE id > 1 AND id <= 9 ORDER BY id LIMIT 1"]
    else:
        statements = [query["sql"] for query in queries if '"django_q_task"."stopped"' in query["sql"]]
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
            plan = " ".join(str(row[3]) for row in cursor.fetchall())
            assert f"USING INDEX {index}" in plan or f"USING {index}" in plan, plan
    assert statements
