"""A paused queue accepts tasks and runs none, on any host, until it is resumed."""

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from django.db import connections, transaction
from django_q.conf import logger
from django_q.models import OrmQ
from django_q.tasks import async_task

from durable_queue.models import PausedQueue
from durable_queue.store import pausing
from durable_queue.store.broker import Broker
from durable_queue.store.leases import new_name
from durable_queue.store.rows import Claim
from tests.support.queue_rows import listener, worker

pytestmark = pytest.mark.django_db(transaction=True)

TASK = "tests.support.cluster_tasks.take_one"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What django-q2's logger says, which passes nothing on."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def pause(queue: str = "notifier") -> bool:
    """Alice pauses it."""
    return pausing.pause(queue, by="alice", why="the mail server is down")


def resume(queue: str = "notifier") -> bool:
    """Bob resumes it."""
    return pausing.resume(queue, by="bob")


def test_pause__says_who_and_why_and_which_call_did_it(said: pytest.LogCaptureFixture) -> None:
    assert (resume(), pause(), pause(), resume(), resume()) == (False, True, False, True, False)
    assert [record.getMessage() for record in said.records] == [
        "The queue 'notifier' was paused by alice: the mail server is down",
        "The queue 'notifier' was resumed by bob",
    ]


def test_pause__by_many_at_once_is_done_by_one() -> None:
    def alice(_: int) -> bool:
        try:
            return pause()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(max_workers=8) as threads:
        assert sum(threads.map(alice, range(8))) == 1
    assert PausedQueue.objects.count() == 1


def test_paused__names_each_queue_with_who_and_why() -> None:
    pause("second:alone"), pausing.pause("first", by="b" * 1000, why="\0\ud800")
    first, second = pausing.paused()
    assert (second.queue, second.by, second.why) == ("second", "alice", "the mail server is down")
    assert (first.queue, first.by) == ("first", "b" * 150)


@pytest.mark.parametrize(
    "name", ["", ":alone", "q" * 101, "no\0ne", "\ud800"], ids=["none", "alone", "long", "nul", "surrogate"]
)
def test_pause__what_is_no_name(name: str) -> None:
    for verb in (pause, resume):
        with pytest.raises(ValueError, match="No queue has this name"):
            verb(name)
    assert not PausedQueue.objects.exists()


def test_claim__of_a_paused_queue_takes_nothing() -> None:
    alice, bob = worker("alice"), worker("bob", queue="second")
    for number in range(3):
        async_task(TASK, number)
    held = Broker().settle_and_claim(alice, claim=1)
    pause(), async_task(TASK, 4), async_task(TASK, 5, cluster="second")
    assert Broker().settle_and_claim(alice, claim=5, keep=True).rows == []
    assert Broker().settle_and_claim(alice, returned=held.rows, claim=5).rows == [], "in one transaction with another thing"
    assert OrmQ.objects.filter(key="notifier").count() == 4
    assert len(Broker("second").settle_and_claim(bob, claim=5).rows) == 1
    resume()
    assert len(Broker().settle_and_claim(alice, claim=5).rows) == 4


def test_claim__of_what_runs_alone_in_a_paused_queue() -> None:
    alice = worker("alice", queue="notifier:alone")
    broker = Broker("notifier:alone")
    broker.enqueue_all(["x"], as_they_are=True)
    assert Broker().is_alone_due()
    pause()
    assert not Broker().is_alone_due()
    assert broker.settle_and_claim(alice, claim=5).rows == []
    resume()
    assert len(broker.settle_and_claim(alice, claim=5).rows) == 1


def test_claim__of_what_is_tried_again_in_a_paused_queue() -> None:
    """Those whose delay is over are found by a statement of their own."""
    alice, broker = worker("alice"), Broker()
    broker.enqueue_all(["x"], as_they_are=True)
    OrmQ.objects.update(lock="2020-01-01T00:00Z")
    pause()
    assert broker.settle_and_claim(alice, claim=5).rows == []
    with transaction.atomic():
        assert broker.table.claim("notifier", asked(5)) == []
    resume()
    assert len(broker.settle_and_claim(alice, claim=5).rows) == 1


def asked(limit: int) -> Claim:
    """A claim of Carol's."""
    now = datetime.now(UTC)
    return Claim(limit, now, new_name(worker("carol"), now))


def test_until_due__while_the_queue_is_paused() -> None:
    pause()
    assert Broker().wait_until_due() is None
    async_task(TASK, 1)
    assert Broker().wait_until_due() == math.inf
    resume()
    assert Broker().wait_until_due() == 0.0


def test_resume__wakes_the_workers_of_this_host() -> None:
    pause()
    with listener("notifier") as ear, listener("notifier:alone") as alone:
        with transaction.atomic():
            resume()
            assert not ear.wait(0.0), "not before it is committed"
        assert ear.wait(1.0)
        assert alone.wait(1.0)
