"""On SQLite a task is announced within the turn to write it, and the claim of whoever heard of it comes after that turn."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from time import sleep

import pytest
from django.db import connection, connections
from django_q.models import OrmQ

from durable_queue.conf import cluster_conf
from durable_queue.models import Worker
from durable_queue.store.broker import Broker
from durable_queue.store.sqlite import turns
from tests.support import selection
from tests.support.queue_rows import listener, worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    selection.on_sqlite,
]

MOMENT = 0.2  # seconds: what takes longer waits


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """The broker, connected; whoever waits for a turn does so for long."""
    monkeypatch.setattr(turns, "LONGEST", 20.0)
    connection.ensure_connection()
    return Broker()


@pytest.fixture
def alice() -> Worker:
    """A worker."""
    return worker("alice")


@contextmanager
def somebody_elses_turn() -> Iterator[None]:
    """Hold the lock that stands for it."""
    with (cluster_conf.run_dir / "turn").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        yield


@contextmanager
def another_program_writes() -> Iterator[None]:
    """Hold SQLite's lock, by a program that knows nothing of turns."""
    with closing(sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)) as program:
        program.execute("BEGIN IMMEDIATE")
        yield
        program.execute("ROLLBACK")


def test_enqueue__announces_within_its_turn(broker: Broker, another: ThreadPoolExecutor) -> None:
    with listener(broker.queue) as ear:
        with another_program_writes():
            with somebody_elses_turn():
                queued = another.submit(broker.enqueue, "soon")
                assert not ear.wait(MOMENT)
            assert list(ear.wait(20)) == [1]
            # Which also tells that the other thread, waiting for SQLite's lock, keeps nobody from running.
            assert (OrmQ.objects.count(), queued.done()) == (0, False)
        queued.result(20)


def test_claim__waits_for_its_turn(broker: Broker, alice: Worker) -> None:
    row = broker.enqueue("due")
    with ThreadPoolExecutor(max_workers=1) as thread:
        with somebody_elses_turn():
            claimed = thread.submit(broker.settle_and_claim, alice, claim=1)
            sleep(MOMENT)
            assert not claimed.done()
        assert [(claim.id, claim.payload) for claim in claimed.result(20).rows] == [(row, "due")]
        thread.submit(connections.close_all).result(20)


def test_claim__does_not_wait_for_a_lock_beside_the_one_who_announced(
    broker: Broker, alice: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.enqueue("due")
    monkeypatch.setattr(turns, "LONGEST", MOMENT)
    with somebody_elses_turn():
        # Of what is due, a turn keeps nobody for long: who has it may have been stopped.
        assert [row.payload for row in broker.settle_and_claim(alice, claim=1).rows] == ["due"]
        bob = worker("bob")
        with another_program_writes():
            assert broker.settle_and_claim(bob, claim=1).rows == []  # "database is locked", else


def test_enqueue__hints_again_when_it_took_long(broker: Broker, another: ThreadPoolExecutor) -> None:
    with listener(broker.queue) as ear:
        with another_program_writes():
            queued = another.submit(broker.enqueue, "soon")
            assert list(ear.wait(20)) == [1]
            assert not ear.wait(MOMENT)
        queued.result(20)
        assert list(ear.wait(20)) == [0]


def test_enqueue__whose_turn_does_not_come(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONGEST", MOMENT)
    broker.enqueue("first")
    with listener(broker.queue) as ear, somebody_elses_turn():
        broker.enqueue("second")
        # After the COMMIT, and then alone: who heard of it before could not have waited for it.
        assert list(ear.wait(20)) == [0]
    assert OrmQ.objects.count() == 2


def test_turn__of_one_at_a_time(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONGEST", MOMENT)
    with turns.Turn(connection) as is_ours, ThreadPoolExecutor(max_workers=1) as thread:
        assert is_ours
        assert not thread.submit(lambda: turns.Turn(connection).__enter__()).result(20)
    with turns.Turn(connection) as is_ours:
        assert is_ours


def test_turn__in_a_process_that_was_forked(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONGEST", MOMENT)
    with turns.Turn(connection):
        pid = os.fork()
        if pid == 0:
            code = 3
            try:
                turn = turns.Turn(connection)
                assert turn._lock >= 0
                code = turn.__enter__()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
