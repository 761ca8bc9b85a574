"""durable_queue/intake/group_commit.py: what is queued in one turn of an event loop is committed together."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import datetime

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, connections, transaction
from django_q.models import OrmQ

from durable_queue import BackgroundTasks
from durable_queue.intake import group_commit
from durable_queue.store.broker import Broker
from notifications.tasks import write_log

pytestmark = pytest.mark.django_db(transaction=True)


class CountingBroker(Broker):
    """Says what it committed, batch by batch; it may be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.error: Exception | None = None

    def enqueue_all(self, tasks: Sequence[str], *, as_they_are: bool = False, due: datetime | None = None) -> int:
        """Commit them."""
        self.batches.append(len(tasks))
        if self.error:
            raise self.error
        return super().enqueue_all(tasks, as_they_are=as_they_are, due=due)


@pytest.fixture
def broker() -> CountingBroker:
    """A broker on the test's database."""
    return CountingBroker()


async def several(broker: Broker, numbers: range) -> list[object]:
    """Queue several packages at the same moment; return what each call raised, or None."""
    calls = [group_commit.enqueue(broker, f"package {number}") for number in numbers]
    return await asyncio.gather(*calls, return_exceptions=True)


def payloads() -> list[str]:
    """What is queued, first come first."""
    return list(OrmQ.objects.order_by("pk").values_list("payload", flat=True))


def test_enqueue__one_transaction_for_all_of_one_moment(broker: CountingBroker) -> None:
    assert asyncio.run(several(broker, range(20))) == [None] * 20
    assert broker.batches == [20]
    assert payloads() == [f"package {number}" for number in range(20)]


def test_enqueue__one_after_the_other(broker: CountingBroker) -> None:
    async def in_turn() -> None:
        for number in range(3):
            await group_commit.enqueue(broker, f"package {number}")
            assert len(payloads_in_loop()) == number + 1  # it returns once it is committed, not before

    def payloads_in_loop() -> list[str]:
        with group_commit._out_of_loop():
            return payloads()

    asyncio.run(in_turn())
    assert broker.batches == [1, 1, 1]


def test_enqueue__after_a_plain_call_in_a_loop_was_refused(broker: CountingBroker) -> None:
    async def plain_call() -> None:
        broker.enqueue("refused")

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(plain_call())
    with transaction.atomic():
        broker.enqueue("rolled back")
        transaction.set_rollback(True)
    assert asyncio.run(several(broker, range(1))) == [None]
    assert payloads() == ["package 0"]


def test_enqueue__no_more_than_one_statement_takes(broker: CountingBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LARGEST", 8)
    asyncio.run(several(broker, range(20)))
    assert broker.batches == [8, 8, 4]
    assert payloads() == [f"package {number}" for number in range(20)]


def test_enqueue__an_error_is_everybodys_and_nothing_is_queued(broker: CountingBroker) -> None:
    broker.error = DatabaseError("as always")
    assert asyncio.run(several(broker, range(3))) == [broker.error] * 3
    assert not OrmQ.objects.exists()
    broker.error = None
    assert asyncio.run(several(broker, range(2))) == [None, None]
    assert len(payloads()) == 2


def test_enqueue__a_request_that_was_cancelled_holds_up_nobody(broker: CountingBroker) -> None:
    async def cancel_the_first() -> list[object]:
        first = asyncio.create_task(group_commit.enqueue(broker, "first"))
        second = asyncio.create_task(group_commit.enqueue(broker, "second"))
        await asyncio.sleep(0)  # both wait for the batch, which is the next thing that the loop does
        first.cancel()
        return list(await asyncio.gather(first, second, return_exceptions=True))

    first, second = asyncio.run(cancel_the_first())
    assert isinstance(first, asyncio.CancelledError)
    assert second is None
    assert "second" in payloads()


def test_enqueue__a_loop_that_ended_too_early_leaves_nothing_open(broker: CountingBroker) -> None:
    loop = asyncio.new_event_loop()
    call = group_commit.enqueue(broker, "never committed")
    loop.call_soon(loop.stop)
    task = loop.create_task(call)
    loop.run_forever()
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    assert asyncio.run(several(broker, range(1))) == [None]
    assert "package 0" in payloads()


def test_enqueue__loops_of_several_threads(broker: CountingBroker) -> None:
    def one_loop(start: int) -> None:
        try:
            for number in range(start, start + 5):
                asyncio.run(several(broker, range(number * 10, number * 10 + 10)))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=one_loop, args=(start,)) for start in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(payloads())) == 100


def test_aenqueue__of_background_tasks() -> None:
    async def post() -> str | None:
        tasks = BackgroundTasks(name="message to alice")
        tasks.add_task(write_log, "found query: a\n")
        tasks.add_task(write_log, "message to alice\n")
        return await tasks.aenqueue()

    task_id = asyncio.run(post())
    assert task_id
    assert OrmQ.objects.get().task["id"] == task_id
    assert asyncio.run(BackgroundTasks().aenqueue()) is None
    assert OrmQ.objects.count() == 1


def test_database__stays_out_of_reach_for_all_else_in_the_loop(broker: CountingBroker) -> None:
    async def look() -> None:
        await group_commit.enqueue(broker, "package")
        OrmQ.objects.count()

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(look())
