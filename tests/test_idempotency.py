"""durable_queue/intake/idempotency.py: a request with a key queues its tasks once, however often and wherever it comes."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection, connections
from django_q.models import OrmQ

from durable_queue import BackgroundTasks
from durable_queue.conf import cluster_conf
from durable_queue.intake import group_commit, idempotency
from durable_queue.intake.idempotency import KeyReusedError, key_of
from durable_queue.models import IdempotencyKey
from durable_queue.store.broker import Broker
from durable_queue.store.keys import Key, Request, Stored
from durable_queue.store.rows import QUEUE_TABLE
from durable_queue.task import signing
from durable_queue.task.identifiers import BadIdError
from durable_queue.upkeep import pruning
from notifications.tasks import write_log
from tests.support import environment, selection
from tests.support.processes import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take long to answer."""
    monkeypatch.setattr(group_commit, "ANSWER", 20.0)
    monkeypatch.setattr(group_commit, "AGAIN", 20.0)


def key(name: str = "one", *, request: str = "the same", scope: str = "") -> Key:
    """A key as it is stored."""
    return key_of(name, scope=[scope], request=[request.encode()])


def tasks(text: str = "a") -> BackgroundTasks:
    """What a request leaves behind."""
    found = BackgroundTasks(name=text)
    found.add_task(write_log, text)
    return found


def post(name: str = "one", *, request: str = "the same") -> str:
    """Queue a task by a request with this key; return the id that it is told."""
    (task_id,) = idempotency.enqueue([tasks().packed()], key(name, request=request))
    return task_id


async def posts(*keys: Key | None) -> list[Any]:
    """Requests that come at the same moment; for each the id that it is told, or what was raised."""
    return await asyncio.gather(*(tasks().aenqueue(key) for key in keys), return_exceptions=True)


def queued() -> list[str]:
    """The ids of the queued tasks, first come first."""
    return [row.task["id"] for row in OrmQ.objects.order_by("pk")]


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Call all of these at the same moment, each in a thread with a connection of its own."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            connection.ensure_connection()
            start.wait(20)
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


# The same request.


def test_key__of_a_request_that_is_repeated() -> None:
    first = post()
    assert post() == first
    assert asyncio.run(posts(key())) == [first]
    assert queued() == [first]
    assert post("two") != first
    assert len(queued()) == 2


def test_key__in_one_group_commit() -> None:
    given = [key("one"), key("two"), key("one"), key("three"), key("two")]
    one, two, again, three, two_again = asyncio.run(posts(*given))
    assert (again, two_again) == (one, two)
    assert sorted(queued()) == sorted([one, two, three])


def test_key__in_many_group_commits_at_once() -> None:
    found = in_threads(*[lambda: asyncio.run(posts(*[key()] * 5))] * 4)
    assert len({task_id for ids in found for task_id in ids}) == 1
    assert len(queued()) == 1


def test_key__in_many_threads_at_once() -> None:
    assert len(set(in_threads(*[post] * 8))) == 1
    assert len(queued()) == 1


def test_key__of_many_tasks() -> None:
    several = [tasks(str(number)).packed() for number in range(3)]
    ids = idempotency.enqueue(several, key())
    assert ids == [task.id for task in several]
    assert idempotency.enqueue([tasks().packed() for _ in range(3)], key()) == ids
    assert queued() == ids


def test_key__has_a_scope() -> None:
    """The same text is another key for somebody else, and for another route."""
    first, *others = (idempotency.enqueue([tasks().packed()], key(scope=scope))[0] for scope in ("alice", "bob", ""))
    assert len({first, *others}) == 3
    assert key_of("b", scope=["a"], request=[]).digest != key_of("a", scope=["b"], request=[]).digest
    assert key_of("c", scope=["a", "b"], request=[]).digest != key_of("b, c", scope=["a"], request=[]).digest


def test_key__of_a_request_in_parts() -> None:
    assert key_of("a", scope=[], request=[b"ab", b""]).fingerprint != key_of("a", scope=[], request=[b"a", b"b"]).fingerprint


# Another request.


def test_key__that_another_request_has_used() -> None:
    first = post()
    with pytest.raises(KeyReusedError):
        post(request="another")
    assert queued() == [first]
    assert post() == first


def test_key__that_another_request_uses_at_the_same_moment() -> None:
    """It costs none of the others anything."""
    reused = key(request="another")
    first, refused, plain, again, other = asyncio.run(posts(key(), reused, None, key(), key("two")))
    assert isinstance(refused, KeyReusedError)
    assert again == first
    assert sorted(queued()) == sorted([first, plain, other])


# What was not queued.


def test_key__is_kept_with_the_tasks_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL the answer comes too late, and nobody knows what came of it."""
    monkeypatch.setattr(group_commit, "ANSWER", 1.0)
    with pytest.raises(DatabaseError), locked_queue():
        post()
    monkeypatch.setattr(group_commit, "ANSWER", 20.0)
    connection.close()
    wait_until(lambda: IdempotencyKey.objects.count() == OrmQ.objects.count(), what="both or none")
    first = post()
    assert queued() == [first]


def test_key__is_not_kept_for_a_task_that_can_not_be_queued() -> None:
    bad = tasks().packed()._replace(payload=signing.dumps({"id": "none", "name": ""}))
    with pytest.raises(BadIdError):
        idempotency.enqueue([tasks().packed(), bad], key())
    assert not IdempotencyKey.objects.exists()
    assert not queued()


@contextmanager
def locked_queue() -> Iterator[None]:
    """Nobody else can insert rows meanwhile."""
    begin = "BEGIN IMMEDIATE" if environment.DATABASE == "sqlite" else f"LOCK TABLE {QUEUE_TABLE}"
    with another_connection() as other:
        other.execute(begin)
        try:
            yield
        finally:
            other.execute("ROLLBACK")


@contextmanager
def another_connection() -> Iterator[Any]:
    """A connection of another program, which begins a transaction with its first statement."""
    if environment.DATABASE == "postgresql":
        with closing(psycopg.connect(environment.database_url_of_test())) as other:
            yield other
    else:
        copy = connection.copy("other")
        copy.ensure_connection()
        with closing(copy.connection) as driver:
            yield driver


# What others do at the same moment.


def is_waiting_for_lock() -> bool:
    """Whether somebody waits for a row that another transaction has changed."""
    with environment.administration() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%idempotency%'")
        return bool((cursor.fetchone() or [0])[0])


@selection.on_postgresql
@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
def test_key__that_another_is_about_to_commit(ends: str) -> None:
    theirs = "f" * 32
    stored = (*key(), theirs, datetime.now(UTC))
    with another_connection() as other, ThreadPoolExecutor(1) as thread:
        other.execute("INSERT INTO durable_queue_idempotencykey VALUES (%s, %s, %s, %s)", stored)
        told = thread.submit(in_threads, post)
        wait_until(is_waiting_for_lock, what="it waits")
        other.execute(ends)
        (task_id,) = told.result(20)
    assert (task_id == theirs) == (ends == "COMMIT")
    assert queued() == ([] if ends == "COMMIT" else [task_id])


class RecordingBroker(Broker):
    """Says which keys it was given, batch by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []

    def enqueue_requests(self, requests: Sequence[Request]) -> list[Stored | None]:
        """Enqueue them."""
        self.batches.append([request.key.digest for request in requests if request.key])
        return super().enqueue_requests(requests)


def test_keys__are_taken_in_one_order() -> None:
    broker = RecordingBroker()
    given = [key("a"), key("b"), key("c")]
    for some in (given, given[::-1]):
        idempotency.put(broker, [idempotency.request_of([tasks().packed()], key) for key in some])
    assert broker.batches == [sorted(key.digest for key in given)] * 2
    assert len(queued()) == 3


def test_keys__in_two_orders_at_once() -> None:
    """A and B, B and A: one waits for the other."""
    for number in range(10):
        given = [key(f"{number} {name}") for name in "abcdef"]
        orders = (given, given[::-1])
        one, other = in_threads(*[partial(asyncio.run, posts(*order)) for order in orders])
        assert one == other[::-1]
    assert len(queued()) == 60


# Old keys.


def age(by: timedelta) -> None:
    """Let all keys be older."""
    for stored in IdempotencyKey.objects.all():
        IdempotencyKey.objects.filter(pk=stored.pk).update(at=stored.at - by)


def test_key__is_kept_for_a_day() -> None:
    first = post()
    age(cluster_conf.idempotency - timedelta(minutes=1))
    assert post() == first
    age(timedelta(minutes=2))
    second = post(request="another")
    assert second != first
    assert post(request="another") == second, "it is a new key"
    assert queued() == [first, second]


def test_key__that_is_old_taken_by_many_at_once() -> None:
    first = post()
    age(2 * cluster_conf.idempotency)
    found = set(in_threads(*[post] * 6))
    assert len(found) == 1
    assert first not in found


def test_pruning__of_old_keys() -> None:
    post()
    age(cluster_conf.idempotency + timedelta(minutes=1))
    young = post("two")
    pruning.prune(timedelta(days=30), using="default")
    (kept,) = IdempotencyKey.objects.all()
    assert kept.task_ids == young


@selection.on_postgresql
def test_pruning__of_a_key_that_is_being_renewed() -> None:
    post()
    age(2 * cluster_conf.idempotency)
    with another_connection() as other:
        other.execute("UPDATE durable_queue_idempotencykey SET at = now()")
        pruning.prune(timedelta(days=30), using="default")
        other.execute("COMMIT")
    assert IdempotencyKey.objects.exists()


# Without a key.


@contextmanager
def statements() -> Iterator[list[str]]:
    """What this thread has the database do meanwhile; of PostgreSQL the names of its prepared statements, one for each use."""
    found: list[str] = []
    connection.close()
    connection.ensure_connection()
    if environment.DATABASE == "sqlite":
        connection.connection.set_trace_callback(found.append)
        yield found
        connection.connection.set_trace_callback(None)
    else:
        yield found
        with connection.cursor() as cursor:
            cursor.execute("SELECT name, generic_plans + custom_plans FROM pg_prepared_statements ORDER BY prepare_time")
            found += [name for name, times in cursor.fetchall() for _ in range(times)]


def test_plain__statements_are_those_of_before() -> None:
    asyncio.run(posts(None))  # after a failure, a commit sets limits of its own
    with statements() as single:
        asyncio.run(posts(None))
    with statements() as batch:
        asyncio.run(posts(*[None] * 3))
    with statements() as mixed:
        asyncio.run(posts(None, key(), None, None))
    if environment.DATABASE == "postgresql":
        assert (single, batch) == (["notifier_insert"], ["notifier_insert_all"])
        assert mixed == ["notifier_insert_all", "notifier_insert_requests"]
        return
    (insert,), (insert_all,) = single, batch
    assert insert.startswith("INSERT INTO django_q_ormq (key, payload, lock) VALUES (")
    assert insert_all.startswith("INSERT INTO django_q_ormq (key, payload, lock) VALUES (")
    assert mixed[0][:12] == insert_all[:12]
    assert "BEGIN" in mixed[1], "those with a key come after them, in a transaction of their own"


def test_plain__is_queued_though_keys_can_not_be() -> None:
    with connection.schema_editor() as editor:
        editor.delete_model(IdempotencyKey)
    try:
        plain, keyed = asyncio.run(posts(None, key()))
    finally:
        connection.close()
        with connection.schema_editor() as editor:
            editor.create_model(IdempotencyKey)
    assert isinstance(keyed, DatabaseError)
    assert queued() == [plain]
