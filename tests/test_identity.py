"""One task, one state, at every moment; and what a worker's row says of the tasks that take long."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.db import OperationalError, connection
from django_q.models import OrmQ
from django_q.tasks import async_task

from durable_queue import BackgroundTasks
from durable_queue.models import Worker
from durable_queue.states import State
from durable_queue.status import status_of
from durable_queue.store import queue_connection
from durable_queue.store.broker import Broker
from durable_queue.store.databases import table_of
from durable_queue.store.freeing import free, rows_in_hand
from durable_queue.store.leases import Settlement
from durable_queue.task import running
from durable_queue.task.process import this_process
from durable_queue.task.running import RunningTask
from durable_queue.work import outcomes
from durable_queue.work.holdings import Holdings
from durable_queue.work.long_tasks import Named
from durable_queue.work.notes import Notes
from durable_queue.work.pace import SLOW_AFTER
from durable_queue.work.progress import Progress
from tests.support.clusters import Cluster, all_end
from tests.support.identity_tasks import Witness, queue_all, rest
from tests.support.processes import wait_until
from tests.support.queue_rows import worker

pytestmark = pytest.mark.django_db(transaction=True)

REST = "tests.support.identity_tasks.rest"


def in_hand() -> dict[str, Any]:
    """What the rows of all workers say."""
    return {task_id: said for each in Worker.objects.all() for task_id, said in each.in_hand.items()}


def known(task_id: str) -> Any:
    """The status of a task that is known."""
    found = status_of(task_id)
    assert found
    return found


def test_state__is_right_at_every_moment(cluster: Cluster, tmp_path: Path) -> None:
    with cluster(workers=2, max_attempts=0):
        witness = Witness(queue_all(20, tmp_path))
        witness.watch()
    ends = [seen[-1].state for seen in witness.seen.values()]
    assert ends.count(State.FAILED) == 4
    assert ends.count(State.SUCCEEDED) == 16
    assert any(status.state is State.RETRYING for seen in witness.seen.values() for status in seen)


@pytest.mark.parametrize("threads", [1, 40])
def test_in_hand__of_real_workers(cluster: Cluster, threads: int) -> None:
    before = datetime.now(UTC)
    with cluster(threads=threads):
        task_id, waits = async_task(REST, 3), async_task(REST, 0)
        wait_until(in_hand, what="the worker's row names it")
        assert known(task_id).state is State.RUNNING
        assert before < known(task_id).started_at < datetime.now(UTC)
        assert list(in_hand()) == [task_id]
        me = str(Worker.objects.get())
        if threads == 1:
            assert known(waits).state is State.QUEUED, "it was given back in the same transaction"
        all_end()
        assert (known(task_id).state, known(task_id).worker) == (State.SUCCEEDED, me)
        assert in_hand() == {}


def test_in_hand__tells_how_many_calls_are_done(cluster: Cluster) -> None:
    tasks = BackgroundTasks(name="three calls")
    for _ in range(3):
        tasks.add_task(rest, 1.2)
    with cluster():
        task_id = str(tasks.enqueue())
        seen = set()
        while (status := known(task_id)).state is not State.SUCCEEDED:
            seen.add((status.calls, status.calls_done))
        assert (status.calls, status.calls_done) == (3, 3)
    assert {(3, 0), (3, 1), (3, 2)} <= seen


# One worker, without processes.


@contextmanager
def holding(tmp_path: Path, count: int = 1) -> Iterator[Holdings]:
    """A worker that has some tasks in hand, which began a second ago."""
    for number in range(count):
        async_task(REST, number)
    holdings = Holdings(Broker(), worker("alice"), Notes())
    holdings.settle_and_claim(count)
    begun = []
    while row := holdings.take():
        task = RunningTask(outcomes.read(row)["id"], REST, row=row.id)
        task.began -= 1.0 - task.claimed
        task.started = datetime.now(UTC) - timedelta(seconds=1)
        running.begin(task)
        begun.append(task)
    try:
        yield holdings
    finally:
        for task in begun:
            running.end(task)


def name(holdings: Holdings) -> None:
    """Have the worker's row name its long tasks, as the watch does."""
    holdings.settle_and_claim(patient=False, names_tasks=True)


def finish(holdings: Holdings, task: RunningTask, tmp_path: Path) -> None:
    """Have a task in hand succeed."""
    running.end(task)
    (row,) = rows_in_hand(Broker(), holdings.me, [task.row])
    now = datetime.now(UTC)
    ended = outcomes.read(row) | {"started": now, "stopped": now, "result": None, "success": True}
    holdings.finish(Settlement(row, ended), Progress(tmp_path / "alice.progress").slot(0))


def test_long_tasks__are_named_and_kept_right(tmp_path: Path) -> None:
    with holding(tmp_path, 2) as holdings:
        first, second = sorted(this_process.in_hand, key=lambda task: task.row)
        assert holdings.long_tasks.are_there(first.began + SLOW_AFTER)
        name(holdings)
        assert in_hand() == {task.id: {"started": task.started.isoformat(), "calls_done": 0} for task in (first, second)}
        assert holdings.long_tasks.to_store(holdings.in_hand) is None, "nothing has changed"
        second.results.append(None)
        name(holdings)
        assert in_hand()[second.id]["calls_done"] == 1
        running.end(first)  # it has returned, and is not settled yet
        name(holdings)
        assert set(in_hand()) == {first.id, second.id}
        running.begin(first)
        finish(holdings, first, tmp_path)
        holdings.settle_and_claim()
        assert set(in_hand()) == {second.id}
        finish(holdings, second, tmp_path)
        holdings.settle_and_claim()
        assert in_hand() == {}
        assert Worker.objects.get().lease is None


def test_long_tasks__are_looked_at_while_another_thread_notes_them(tmp_path: Path) -> None:
    with holding(tmp_path) as holdings:
        (task,) = this_process.in_hand
        long_tasks = holdings.long_tasks
        seen_by_watch = long_tasks.to_store({task.row})
        assert seen_by_watch
        long_tasks.note_stored(seen_by_watch)
        nothing = Named({}, {})
        assert long_tasks.to_store(()) == nothing

        class Kept(set[int]):
            def __contains__(self, row: object) -> bool:
                long_tasks.note_stored(nothing)  # what a leader does meanwhile
                return super().__contains__(row)

        assert long_tasks.to_store(Kept({task.row})) is None
        assert not long_tasks.are_named
        long_tasks.note_stored(seen_by_watch)
        assert long_tasks.are_named


def test_long_tasks__go_with_their_worker(tmp_path: Path) -> None:
    with holding(tmp_path) as holdings:
        (task,) = this_process.in_hand
        name(holdings)
        assert known(task.id).started_at == task.started
        free(Broker(), holdings.me)
        assert (known(task.id).state, known(task.id).started_at) == (State.QUEUED, None)


def test_long_tasks__after_an_answer_that_was_lost(tmp_path: Path) -> None:
    with holding(tmp_path) as holdings:
        lost = mock.patch.object(holdings.broker, "settle_and_claim", side_effect=OperationalError("lost"))
        with lost, mock.patch.object(queue_connection, "close"):  # which only a worker process has
            name(holdings)
        assert in_hand() == {}
        name(holdings)
        assert len(in_hand()) == 1


def statements(holdings: Holdings, tmp_path: Path) -> list[str]:
    """What a worker says to the database while it settles its quick tasks and claims others."""
    kind = type(table_of(connection))
    run, said = kind.run, []

    def note(self: Any, sql: str, values: Any = ()) -> Any:
        said.append(" ".join(sql.split()))
        return run(self, sql, values)

    with mock.patch.object(kind, "run", note):
        for task in tuple(this_process.in_hand):
            finish(holdings, task, tmp_path)
        async_task(REST, 1)
        said.clear()
        holdings.settle_and_claim(1)
    return said


def test_long_tasks__cost_quick_ones_nothing(tmp_path: Path) -> None:
    with holding(tmp_path) as holdings:
        said = statements(holdings, tmp_path)
    leases = [sql for sql in said if "durable_queue_worker" in sql]
    assert leases == ["UPDATE durable_queue_worker SET lease = %s, lease_due = %s WHERE id = %s AND lease = %s RETURNING id"]
    assert len(said) == (3 if connection.vendor == "sqlite" else 5)
    assert json.dumps(said).count("in_hand") == 0
    assert OrmQ.objects.count() == 1
