"""On PostgreSQL a task is announced while it is committed, and the claim of whoever heard of it waits for it at the server."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import pytest
from django.db import IntegrityError, OperationalError, connection
from django_q.models import OrmQ

from durable_queue.models import Worker
from durable_queue.store.broker import Broker
from durable_queue.store.postgresql import prepared, table
from durable_queue.store.rows import QUEUE_TABLE
from tests.support import selection
from tests.support.queue_rows import listener
from tests.support.queue_rows import worker as stored_worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    selection.on_postgresql,
]

SLOW = 1.0  # seconds that a COMMIT takes here


@contextmanager
def at_commit(statement: str) -> Iterator[None]:
    """Have the server run a statement of PL/pgSQL at the COMMIT of whatever is queued."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statement}; RETURN NULL; END $$"
        )
        cursor.execute(
            f"CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON {QUEUE_TABLE} "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TRIGGER at_commit ON {QUEUE_TABLE}")
            cursor.execute("DROP FUNCTION at_commit()")


def slow_commits() -> AbstractContextManager[None]:
    """As on a slow disk: what was inserted becomes visible late."""
    return at_commit(f"PERFORM pg_sleep({SLOW})")


@pytest.fixture
def broker() -> Broker:
    """The broker."""
    return Broker()


@pytest.fixture
def alice() -> Worker:
    """A worker."""
    return stored_worker("alice")


def wait_for_lock() -> None:
    """Wait until the server is at the task that was announced: a worker, which has to wake up first, is later than that."""
    with connection.cursor() as cursor:
        for _ in range(2000):
            cursor.execute(
                "SELECT count(*) FROM pg_locks JOIN pg_database ON database = pg_database.oid "
                "WHERE locktype = 'advisory' AND granted AND datname = current_database()"  # others are other tests'
            )
            if cursor.fetchone()[0]:
                return
            time.sleep(0.01)
    raise AssertionError("nothing was announced")


def know_statements(broker: Broker, who: Worker) -> None:
    """Have this connection prepare what a claim needs."""
    assert broker.settle_and_claim(who, claim=1, announced=[1]).rows == []


def test_enqueue__announces_what_is_not_there_yet(broker: Broker, another: ThreadPoolExecutor) -> None:
    with slow_commits(), listener(broker.queue) as ear:
        queued = another.submit(broker.enqueue, "soon")
        (number,) = ear.wait(20)
        # Which also tells that the other thread, at the server, keeps nobody from running.
        assert (number > 0, OrmQ.objects.count(), queued.done()) == (True, 0, False)
        queued.result(20)
        assert list(ear.wait(20)) == [0]  # after so long, who heard of it may have given up


def test_enqueue__whose_commit_fails(broker: Broker) -> None:
    broker.enqueue("first")
    refusal = at_commit("RAISE unique_violation USING MESSAGE = 'not this one'")
    with refusal, pytest.raises(IntegrityError, match="not this one"):
        broker.enqueue("second")
    broker.enqueue("third")
    assert [row.payload for row in OrmQ.objects.order_by("id")] == ["first", "third"]


def test_enqueue__while_rows_of_the_same_connection_are_being_read(broker: Broker) -> None:
    connection.ensure_connection()
    with connection.connection.cursor() as cursor:
        numbers = cursor.stream("SELECT n FROM generate_series(1, 3) n")
        next(numbers)
        with pytest.raises(OperationalError, match="busy"):
            broker.enqueue("meanwhile")
        assert [number for (number,) in numbers] == [2, 3]
    broker.enqueue("later")
    assert [row.payload for row in OrmQ.objects.all()] == ["later"]


def test_claim__waits_for_the_commit(
    broker: Broker, alice: Worker, another: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = table.AWAIT_ANNOUNCED.sql.replace("100ms", "20s")
    monkeypatch.setattr(table, "AWAIT_ANNOUNCED", prepared.Statement("patient", patient))
    know_statements(broker, alice)
    with slow_commits(), listener(broker.queue) as ear:
        queued = another.submit(broker.enqueue, "soon")
        wait_for_lock()
        rows = broker.settle_and_claim(alice, claim=1, announced=ear.wait(20)).rows
        assert [(row.id, row.payload) for row in rows] == [(queued.result(20), "soon")]


@pytest.mark.parametrize("forgotten", ["ALL", "notifier_await", "notifier_claim_1"])
def test_claim__on_a_connection_that_forgot_its_statements(broker: Broker, alice: Worker, forgotten: str) -> None:
    know_statements(broker, alice)
    broker.enqueue("due")
    with connection.cursor() as cursor:
        cursor.execute(f"DEALLOCATE {forgotten}")
    assert [row.payload for row in broker.settle_and_claim(alice, claim=1, announced=[1]).rows] == ["due"]


def test_claim__of_what_else_is_due_does_not_wait_long(broker: Broker, alice: Worker, another: ThreadPoolExecutor) -> None:
    know_statements(broker, alice)
    broker.enqueue("due")
    with slow_commits(), listener(broker.queue) as ear:
        queued = another.submit(broker.enqueue, "soon")
        wait_for_lock()
        rows = broker.settle_and_claim(alice, claim=2, announced=ear.wait(20)).rows
        assert ([row.payload for row in rows], queued.done()) == (["due"], False)
        queued.result(20)


def test_enqueue__interrupted_while_the_server_works(broker: Broker) -> None:
    class InterruptError(Exception):
        """The signal's."""

    def interrupt(*_: object) -> None:
        raise InterruptError

    first = broker.enqueue("first")
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with slow_commits():
            signal.setitimer(signal.ITIMER_REAL, SLOW / 4)
            with pytest.raises(InterruptError):
                broker.enqueue("interrupted")
    finally:
        signal.signal(signal.SIGALRM, before)
    # The next one must not get the answers that were meant for it.
    last = broker.enqueue("last")
    assert OrmQ.objects.get(pk=last).payload == "last"
    assert last > first


def test_enqueue__more_than_the_socket_takes_at_once(broker: Broker) -> None:
    payload = "x" * 20_000_000
    row = broker.enqueue(payload)
    assert OrmQ.objects.get(pk=row).payload == payload
