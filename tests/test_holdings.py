"""The rows that a worker holds, from one transaction to the next."""

import threading
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django_q.models import Failure, OrmQ, Success
from django_q.tasks import async_task

from durable_queue.models import Worker
from durable_queue.store import queue_connection
from durable_queue.store.broker import Broker
from durable_queue.store.leases import LeaseChange, Row, Settlement
from durable_queue.verbs import Came, cancel
from durable_queue.work import outcomes
from durable_queue.work.holdings import Holdings
from durable_queue.work.notes import Notes
from durable_queue.work.progress import Progress
from tests.support.queue_rows import worker

pytestmark = pytest.mark.django_db(transaction=True)


class Unpicklable:
    """No database can store it."""

    def __reduce__(self) -> Any:
        raise TypeError("not me")


def with_one_finished(tmp_path: Path, result: object) -> Holdings:
    """A worker that holds a row, whose task has just succeeded with this result."""
    async_task("tests.support.cluster_tasks.take_one", 1)
    holdings = Holdings(Broker(), worker("alice"), Notes())
    holdings.settle_and_claim(1)
    row = holdings.take()
    assert row
    now = datetime.now(UTC)
    task = outcomes.read(row) | {"started": now, "stopped": now, "result": result, "success": True}
    holdings.finish(Settlement(row, task), Progress(tmp_path / "alice.progress").slot(0))
    return holdings


def test_lease__ends_while_a_thread_finishes_the_last_row(tmp_path: Path) -> None:
    holdings = with_one_finished(tmp_path, None)
    holdings.in_hand.add(holdings.finished[0].row.id)  # as it is between the two statements of `finish`
    holdings.settle_and_claim()
    assert Worker.objects.get().lease is None
    assert Success.objects.count() == 1


class Watched(deque[Row]):
    """The rows that have not started. While somebody looks at them, another thread takes one."""

    holdings: Holdings

    def __len__(self) -> int:
        count = super().__len__()
        self._have_one_taken()
        return min(count, super().__len__())

    def __iter__(self) -> Iterator[Row]:
        self._have_one_taken()
        return super().__iter__()

    def _have_one_taken(self) -> None:
        # Not by the taker itself; and once nothing is left to settle, since the lease is about to end then.
        if threading.current_thread() is threading.main_thread() and not self.holdings.finished:
            taker = threading.Thread(target=self.holdings.take, daemon=True)
            taker.start()
            taker.join(0.3)


def test_lease__stays_with_a_row_that_is_taken_at_this_moment(tmp_path: Path) -> None:
    holdings = with_one_finished(tmp_path, Unpicklable())
    async_task("tests.support.cluster_tasks.take_one", 2)
    (next_one,) = holdings.broker.settle_and_claim(holdings.me, claim=1, keep=True).rows
    holdings.unstarted = watched = Watched([next_one])
    watched.holdings = holdings
    holdings.settle_and_claim()
    assert Failure.objects.count() == 1
    assert Worker.objects.get().lease == OrmQ.objects.get().lock


def lose_answers(holdings: Holdings, monkeypatch: pytest.MonkeyPatch, *, of: int = 1) -> None:
    """The answer to the first COMMIT that settles so many rows is lost."""
    settle_and_claim = holdings.broker.settle_and_claim
    lost: list[LeaseChange] = []

    def lose(me: Worker, settled: list[Settlement], *args: Any, **options: Any) -> LeaseChange:
        before = me.lease, me.lease_due
        change = settle_and_claim(me, settled, *args, **options)
        if len(settled) == of and not lost:
            lost.append(change)
            me.lease, me.lease_due = before
            raise OperationalError("the connection is lost")
        return change

    monkeypatch.setattr(holdings.broker, "settle_and_claim", lose)
    monkeypatch.setattr(queue_connection, "close", lambda: None)  # a test has no connection of its own for the queue


def test_recover__announces_what_was_cancelled_in_the_place_of_a_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holdings = with_one_finished(tmp_path, "disk full")
    (finished,) = holdings.finished
    task = finished.task | {"success": False, "hook": "tests.support.hook_tasks.note"}
    holdings.finished = [outcomes.settle_finished(finished.row, task, "alice")._replace(retry_at=datetime.now(UTC))]
    assert cancel(task["id"], by="bob") is Came.ASKED
    lose_answers(holdings, monkeypatch)
    assert holdings.settle_and_claim(patient=False) is None
    assert holdings.settle_and_claim()
    told = holdings.next_unannounced()
    assert told
    assert (told.retry_at, told.cancelled, told.task["result"]) == (None, True, "Cancelled by bob")


def test_recover__announces_what_was_settled_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since one of two can't be stored, each is settled by itself, and the answer to the first COMMIT is lost."""
    holdings = with_one_finished(tmp_path, "done")
    holdings.finished[0].task["hook"] = "tests.support.hook_tasks.note"
    async_task("tests.support.cluster_tasks.take_one", 2)
    (row,) = holdings.broker.settle_and_claim(holdings.me, claim=1, keep=True).rows
    holdings.in_hand.add(row.id)
    task = outcomes.read(row) | {"started": (now := datetime.now(UTC)), "stopped": now, "success": True}
    holdings.finish(Settlement(row, task | {"result": Unpicklable()}), Progress(tmp_path / "bob.progress").slot(0))
    lose_answers(holdings, monkeypatch)
    while not holdings.is_empty and not (told := holdings.next_unannounced()):
        holdings.settle_and_claim(patient=False)
    assert told
    assert told.task["result"] == "done"
    holdings.settle_and_claim(patient=False)
    assert (Success.objects.count(), Failure.objects.count(), OrmQ.objects.count()) == (1, 1, 0)
    assert Worker.objects.get().lease is None


def test_lease__ends_with_a_row_that_can_not_be_stored(tmp_path: Path) -> None:
    holdings = with_one_finished(tmp_path, Unpicklable())
    holdings.settle_and_claim()
    assert Worker.objects.get().lease is None
    assert Failure.objects.count() == 1
