"""The rows that a worker holds, from one transaction to the next."""

import threading
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django_q.models import Failure, OrmQ, Success
from django_q.tasks import async_task

from durable_queue.models import Worker
from durable_queue.store.broker import Broker
from durable_queue.store.leases import Row, Settlement
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


def test_lease__ends_with_a_row_that_can_not_be_stored(tmp_path: Path) -> None:
    holdings = with_one_finished(tmp_path, Unpicklable())
    holdings.settle_and_claim()
    assert Worker.objects.get().lease is None
    assert Failure.objects.count() == 1
