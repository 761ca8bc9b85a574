"""The queue table's leases: who holds what, and what a worker that lost its lease can still do (nothing)."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

import pytest
from django.db import DatabaseError, DataError, OperationalError, close_old_connections, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django_q.models import OrmQ, Task
from django_q.tasks import async_task

from durable_queue.conf import cluster_conf
from durable_queue.intake import packaging
from durable_queue.models import DeadLetter, FailedAttempt, Worker
from durable_queue.states import for_now
from durable_queue.store.broker import Broker
from durable_queue.store.databases import table_of
from durable_queue.store.freeing import free, rows_in_hand
from durable_queue.store.leases import LeaseChange, LeaseLostError, Row, Settlement, alone_queue, new_name
from durable_queue.store.queue_connection import queue_settings
from durable_queue.store.rows import ATTEMPTS_TABLE, CLAIMED_BYTES, QUEUE_TABLE, Claim
from durable_queue.task import signing
from durable_queue.upkeep.heartbeat import beat
from durable_queue.upkeep.ownerless import Ownerless
from durable_queue.work import lost_workers, outcomes
from durable_queue.work.follow_ups import follow_up
from durable_queue.work.kernel import host_id
from durable_queue.work.progress import Progress, Verdict, progress_path
from tests.support import selection
from tests.support.queue_rows import worker

pytestmark = pytest.mark.django_db(transaction=True)


class Text(str, Enum):  # noqa: UP042 - StrEnum's members are shown as what they hold
    """Text that is shown as something else."""

    ONE = "one"


def queue(count: int) -> list[str]:
    """Queue tasks; return their ids."""
    return [async_task("tests.support.cluster_tasks.take_one", number) for number in range(count)]


def done(row: Row) -> Settlement:
    """The settlement of a run that succeeded."""
    now = datetime.now(UTC)
    return Settlement(row, outcomes.read(row) | {"started": now, "stopped": now, "result": None, "success": True})


def failed(row: Row) -> Settlement:
    """The settlement of a run that raised."""
    now = datetime.now(UTC)
    task = outcomes.read(row) | {"started": now, "stopped": now, "result": "ValueError", "success": False}
    return outcomes.settle_finished(row, task, "alice")


def ids(rows: list[Row]) -> list[str]:
    """The task ids of rows."""
    return [outcomes.read(row)["id"] for row in rows]


def claim(broker: Broker, who: Worker, limit: int = 128) -> LeaseChange:
    """A first claim."""
    return broker.settle_and_claim(who, claim=limit)


@pytest.fixture
def broker() -> Broker:
    """The broker."""
    return Broker()


@pytest.fixture
def alice() -> Worker:
    """A worker."""
    return worker("alice")


@pytest.fixture
def bob() -> Worker:
    """Another worker."""
    return worker("bob")


def test_claim__takes_what_was_queued_first(broker: Broker, alice: Worker) -> None:
    queued = queue(5)
    assert ids(claim(broker, alice, 3).rows) == queued[:3]


def test_claim__passes_over_what_another_holds_or_what_is_not_due(broker: Broker, alice: Worker, bob: Worker) -> None:
    queued = queue(4)
    OrmQ.objects.filter(pk=OrmQ.objects.latest("pk").pk).update(lock=datetime.now(UTC) + timedelta(hours=1))
    assert ids(claim(broker, alice, 2).rows) == queued[:2]
    assert ids(claim(broker, bob).rows) == queued[2:3]
    assert claim(broker, worker("carol")).rows == []


def test_claim__no_two_workers_name_a_lease_alike(broker: Broker) -> None:
    now = datetime.now(UTC)
    workers = [Worker(id=number) for number in (1, 2, 999, 1000, 1001, 2001, 1_002_002)]
    names = {name for who in workers for day in range(30) for name in leases(who, now + timedelta(days=day))}
    assert len(names) == 2 * 30 * len(workers)


def leases(who: Worker, now: datetime) -> list[datetime]:
    """The names of a worker's lease and of the next one, at the same moment."""
    who.lease = None
    who.lease = first = new_name(who, now)
    second = new_name(who, now)
    assert first < second
    return [first, second]


def test_claim__by_many_at_once_gives_each_row_to_one(broker: Broker) -> None:
    queued = queue(200)
    start, taken = threading.Barrier(4), []

    def take(who: Worker) -> None:
        start.wait()
        try:
            for _ in range(10):
                taken.extend(ids(broker.settle_and_claim(who, claim=10).rows))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=take, args=(worker(f"worker {number}"),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(queued)


def test_settle_and_claim__settles_and_claims_in_one(broker: Broker, alice: Worker) -> None:
    queued = queue(3)
    first = claim(broker, alice, 2)
    second = broker.settle_and_claim(alice, [done(row) for row in first.rows], claim=2)
    assert ids(second.rows) == queued[2:]
    assert set(Task.objects.filter(success=True).values_list("pk", flat=True)) == set(queued[:2])
    assert OrmQ.objects.count() == 1
    assert first.name is not None
    assert second.name is not None
    assert second.name > first.name


def test_settle_and_claim__gives_rows_back_to_their_old_place(broker: Broker, alice: Worker, bob: Worker) -> None:
    queued = queue(4)
    rows = claim(broker, alice, 2).rows
    broker.settle_and_claim(alice, returned=rows)
    assert ids(claim(broker, bob).rows) == queued


@selection.on_postgresql
def test_settle_and_claim__the_server_may_not_forget_what_was_given_back(broker: Broker, alice: Worker) -> None:
    """Rows that were given back, and that a crash of the server puts under the lease again, would wait for ever."""
    queue(3)
    for row, claimed in zip(claim(broker, alice, 2).rows, (0, 1), strict=True):
        with CaptureQueriesContext(broker.database) as queries:
            broker.settle_and_claim(alice, (), [row], claimed, keep=True)
        assert "synchronous_commit" not in str(queries.captured_queries)


def test_settle_and_claim__failed_attempt_waits_and_is_counted(broker: Broker, alice: Worker) -> None:
    queue(1)
    (row,) = claim(broker, alice).rows
    broker.settle_and_claim(alice, [failed(row)])
    assert not Task.objects.exists()
    assert FailedAttempt.objects.get().number == 1
    OrmQ.objects.update(lock=datetime.now(UTC))
    (again,) = broker.settle_and_claim(alice, claim=1).rows
    assert (again.attempts, again.losses) == (1, 0)


def test_settle_and_claim__after_the_lease_was_freed_changes_nothing(broker: Broker, alice: Worker, bob: Worker) -> None:
    queued = queue(2)
    rows = claim(broker, alice).rows
    assert free(broker, Worker.objects.get(pk=alice.pk))
    with pytest.raises(LeaseLostError):
        broker.settle_and_claim(alice, [done(rows[0])])
    assert not Task.objects.exists()
    assert ids(claim(broker, bob).rows) == queued


def test_settle_and_claim__settles_no_row_that_was_deleted_meanwhile(broker: Broker, alice: Worker) -> None:
    queued = queue(2)
    rows = claim(broker, alice).rows
    OrmQ.objects.filter(pk=rows[0].id).delete()
    lease = broker.settle_and_claim(alice, [done(row) for row in rows])
    assert [settlement.row.id for settlement in lease.settled] == [rows[1].id]
    assert list(Task.objects.values_list("pk", flat=True)) == queued[1:]


def test_settle_and_claim__that_fails_changes_nothing(broker: Broker, alice: Worker) -> None:
    queue(2)
    rows = claim(broker, alice).rows
    unstorable = done(rows[1])
    unstorable.task["result"] = lambda: None
    with pytest.raises(Exception, match="pickle"):
        broker.settle_and_claim(alice, [done(rows[0]), unstorable], claim=1)
    assert not Task.objects.exists()
    assert OrmQ.objects.filter(lock=alice.lease).count() == 2


def test_free__charges_the_row_in_hand_alone(broker: Broker, alice: Worker, bob: Worker) -> None:
    queued = queue(3)
    rows = claim(broker, alice).rows
    stored = Worker.objects.get(pk=alice.pk)
    (in_hand,) = rows_in_hand(broker, stored, [rows[1].id])
    lost = FailedAttempt(row=in_hand.id, number=1, outcome="lost", worker="alice", started=in_hand.due, stopped=in_hand.due)
    now = datetime.now(UTC)
    settlement = Settlement(in_hand, outcomes.read(in_hand) | {"started": now, "stopped": now}, lost, retry_at=in_hand.due)
    assert free(broker, stored, [settlement])
    assert not free(broker, stored, [settlement]), "of several, one does it"
    assert FailedAttempt.objects.get().row == rows[1].id
    assert sorted(ids(claim(broker, bob).rows)) == sorted(queued)


def test_free__has_suspects_run_alone_in_their_order(broker: Broker, alice: Worker, bob: Worker) -> None:
    queued = queue(4)
    rows = claim(broker, alice).rows
    assert free(broker, Worker.objects.get(pk=alice.pk), suspects=[rows[number].id for number in (1, 2, 0)])
    assert ids(claim(broker, bob).rows) == queued[3:]
    alone = claim(Broker(alone_queue(broker.queue)), worker("carol", queue=alone_queue(broker.queue))).rows
    assert ids(alone) == [queued[number] for number in (1, 2, 0)]
    assert not FailedAttempt.objects.exists()


def test_fair_share(broker: Broker, alice: Worker, bob: Worker) -> None:
    assert broker.fair_share(5) == 0
    queue(9)
    OrmQ.objects.create(key=broker.queue, payload="due later", lock=datetime.now(UTC) + timedelta(hours=1))
    assert broker.fair_share(100) == 5, "nine rows, for two"
    assert broker.fair_share(4) == 4
    claim(broker, alice, 3)
    assert broker.fair_share(100) == 5, "held rows count"
    claim(broker, bob)
    assert broker.fair_share(100) == 5
    worker("carol")
    worker("dave", queue="another")
    assert broker.fair_share(100) == 3
    Worker.objects.all().delete()
    assert broker.fair_share(100) == 100


def test_settle_and_claim__keeps_what_is_in_hand(broker: Broker, alice: Worker) -> None:
    queue(4)
    first = claim(broker, alice, 2)
    for claimed in (1, 1, 0):
        name, due = alice.lease, alice.lease_due
        change = broker.settle_and_claim(alice, claim=1, keep=True)
        assert (len(change.rows), change.name, alice.lease) == (claimed, name, name)
        assert alice.lease_due == (change.rows[0].due if claimed else due)
    change = broker.settle_and_claim(alice, [done(first.rows[0])], claim=1, keep=True)
    assert ([s.row for s in change.settled], alice.lease) == ([first.rows[0]], first.name)
    assert OrmQ.objects.filter(lock=first.name).count() == 3


def test_recover__while_others_are_kept(broker: Broker, alice: Worker) -> None:
    queue(4)
    one, two = claim(broker, alice, 2).rows
    assert broker.recover(alice, [one.id], [two.id]) is None
    assert broker.recover(alice, [], [one.id, two.id]) is None
    change = broker.settle_and_claim(alice, [done(one)], claim=1, keep=True)  # and its answer is lost
    found = broker.recover(alice, [one.id], [two.id])
    assert found is not None
    assert (found.name, [row.id for row in found.rows]) == (change.name, [row.id for row in change.rows])


def test_settle_and_claim__gives_back_what_runs_alone(broker: Broker, alice: Worker) -> None:
    queue(2)
    one, two = claim(broker, alice).rows
    broker.settle_and_claim(alice, returned=[one._replace(runs_alone=True), two])
    assert list(OrmQ.objects.order_by("id").values_list("key", flat=True)) == [alone_queue(broker.queue), broker.queue]
    assert (broker.queue_size(), broker.lock_size()) == (2, 0)
    assert broker.purge_queue()
    assert not OrmQ.objects.exists()


@pytest.mark.parametrize("keep", [False, True])
def test_claim__no_more_than_so_many_bytes(broker: Broker, alice: Worker, keep: bool) -> None:
    for _ in range(4):
        broker.enqueue("x" * (CLAIMED_BYTES // 3 - 1))
    broker.enqueue("x" * 2 * CLAIMED_BYTES)
    assert [len(broker.settle_and_claim(alice, claim=128, keep=keep).rows) for _ in range(3)] == [3, 1, 1]


def test_free__keeps_the_payload_of_what_can_not_be_read(broker: Broker, alice: Worker) -> None:
    queue(1)
    OrmQ.objects.update(payload="no package")
    (row,) = claim(broker, alice).rows
    with pytest.raises(outcomes.RefusedError, match="signature"):
        outcomes.read(row)
    broker.settle_and_claim(alice, [outcomes.settle_refused(row, "its signature is wrong", "alice")])
    assert DeadLetter.objects.get().payload == "no package"
    assert not Task.objects.get().success


@pytest.mark.parametrize("task_id", ["", "zero \0", "half \ud800", "x" * 32, "0" * 33, 5, None], ids=ascii)
def test_read__an_id_that_history_can_not_have(broker: Broker, alice: Worker, task_id: object) -> None:
    package = packaging.new_task("tests.support.cluster_tasks.take_one", (1,), {}, name="odd")
    OrmQ.objects.create(key=broker.queue, payload=signing.dumps(package | {"id": task_id}), lock=datetime.now(UTC))
    (row,) = claim(broker, alice).rows
    with pytest.raises(outcomes.RefusedError, match="the id of 'odd' is"):
        outcomes.read(row)
    at = datetime.now(UTC)
    unread = {"id": task_id, "started": at, "stopped": at, "result": None, "success": True}
    stored = outcomes.settle_unstorable(Settlement(row, unread), ValueError("no"))
    broker.settle_and_claim(alice, [stored])
    assert Task.objects.get().id == DeadLetter.objects.get().task_id == stored.task["id"]


def test_recover__when_the_commit_got_through(broker: Broker, alice: Worker) -> None:
    queued = queue(2)
    before = Worker.objects.get(pk=alice.pk)
    claim(broker, alice, 1)  # and its answer is lost: `before` knows nothing of it
    lease = broker.recover(before)
    assert lease is not None
    assert ids(lease.rows) == queued[:1]
    assert before.lease == alice.lease


def test_recover__when_it_did_not(broker: Broker, alice: Worker) -> None:
    queue(1)
    assert broker.recover(alice) is None


def test_recover__when_the_worker_was_taken_for_dead(broker: Broker, alice: Worker) -> None:
    free(broker, alice)
    with pytest.raises(LeaseLostError):
        broker.recover(alice)


def test_wait_until_due(broker: Broker, alice: Worker) -> None:
    assert broker.wait_until_due() is None
    queue(1)
    assert broker.wait_until_due() == 0.0
    OrmQ.objects.update(lock=datetime.now(UTC) + timedelta(seconds=50))
    assert 49 < (broker.wait_until_due() or 0) <= 50
    OrmQ.objects.update(lock=datetime.now(UTC))
    claim(broker, alice)
    assert broker.wait_until_due() is None


def test_enqueue__in_a_transaction_that_rolls_back(broker: Broker) -> None:
    with transaction.atomic():
        queue(1)
        transaction.set_rollback(True)
    assert not OrmQ.objects.exists()


def test_claim__goes_by_an_index(broker: Broker) -> None:
    queue(3)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET enable_seqscan = off")  # which it would prefer for three rows
        due = OrmQ.objects.filter(key="notifier", lock__lte=datetime.now(UTC))
        plan = due.order_by("lock", "id").only("id")[:9].explain()
        if connection.vendor == "postgresql":
            cursor.execute("RESET enable_seqscan")
    assert "cluster_claim" in plan
    assert "SORT" not in plan.upper().replace("TEMP B-TREE", "SORT")


def test_free_dead__on_this_host_at_once_elsewhere_after_silence(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other hosts' clocks may say anything: what counts is that a heartbeat changes."""
    here, lost, lively = worker("here", host=host_id()), worker("lost", silent_for=-60), worker("lively", silent_for=3600)
    queue(3)
    for who in (here, lost, lively):
        claim(broker, who, 1)
    observer = lost_workers.Observer()
    now = time.monotonic()
    monkeypatch.setattr("durable_queue.work.lost_workers.time.monotonic", lambda: now)
    assert lost_workers.free_dead(broker, observer) == 1
    assert not Worker.objects.filter(name="here").exists()
    for _ in range(2):
        now += 3.0
        Worker.objects.filter(name="lively").update(heartbeat=F("heartbeat") + timedelta(seconds=3))
        assert lost_workers.free_dead(broker, observer) == 0
    now += 3.1
    assert lost_workers.free_dead(broker, observer) == 1
    assert list(Worker.objects.values_list("name", flat=True)) == ["lively"]
    assert OrmQ.objects.filter(lock__lte=datetime.now(UTC)).count() == 2


def fail(*_: object) -> None:
    """The database does not answer."""
    raise OperationalError("the server is not there")


@pytest.mark.parametrize("what", ["outage", "pause"])
def test_free_dead__begins_anew_after_an_outage(broker: Broker, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The first host that comes back must not take the others for dead."""
    worker("elsewhere")
    observer = lost_workers.Observer()
    now = time.monotonic()
    monkeypatch.setattr("durable_queue.work.lost_workers.time.monotonic", lambda: now)
    assert lost_workers.free_dead(broker, observer) == 0
    if what == "outage":  # its own heartbeats fail
        for _ in range(12):
            now += 1.0
            with connection.execute_wrapper(fail), pytest.raises(OperationalError):
                beat(broker, "0" * 32, observer)
    else:
        now += 12.0
    for _ in range(3):
        assert lost_workers.free_dead(broker, observer) == 0
        now += 3.0
    assert lost_workers.free_dead(broker, observer) == 1


def test_free_dead__whose_progress_file_is_garbage(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    cluster_conf.run_dir.mkdir(parents=True, exist_ok=True)
    queue(8)
    contents = {"empty": b"", "short": b"x", "text": b"garbage" * 1000, "ones": b"\xff" * (32 + 72 * 3)}
    for name, content in contents.items():
        claim(broker, worker(name, host=host_id()), 2)
        progress_path(name).write_bytes(content)
    assert lost_workers.free_dead(broker) == len(contents)
    assert not Worker.objects.exists()
    assert not FailedAttempt.objects.exists(), "no task is charged"
    assert OrmQ.objects.filter(lock__lte=datetime.now(UTC)).count() == 8
    assert not [name for name in contents if progress_path(name).exists()]
    assert "Traceback" not in caplog.text


def test_progress__of_any_bytes_can_be_read(tmp_path: Path) -> None:
    """A task may write anywhere in its process's memory. The supervisor looks at the file each second."""
    progress = Progress(tmp_path / "file", 2)
    progress.slot(0).begin(7, 0.0)
    progress.slot(1).begin(8, 0.0)
    whole = (tmp_path / "file").read_bytes()
    for at in range(len(whole)):
        (tmp_path / "other").write_bytes(whole[:at] + b"\xfe" + whole[at + 1 :])
        read = Progress(tmp_path / "other")
        assert isinstance(read.verdict, Verdict)
        assert len(read.in_hand) <= 2
        read.remove()
    progress.remove()


def test_ownerless__rows_are_freed_once_they_were_seen_twice(broker: Broker, alice: Worker, bob: Worker) -> None:
    queued = queue(5)
    claim(broker, alice, 2)
    claim(broker, bob, 2)
    Worker.objects.filter(pk=alice.pk).delete()
    ownerless = Ownerless(broker)
    ownerless.free()
    assert OrmQ.objects.filter(lock__lte=datetime.now(UTC)).count() == 1, "a claim may be under way"
    ownerless.free()
    assert OrmQ.objects.filter(lock=bob.lease).count() == 2
    assert sorted(ids(claim(broker, worker("carol")).rows)) == sorted([*queued[:2], queued[4]])
    ownerless.free()
    ownerless.free()
    assert OrmQ.objects.filter(lock__lte=datetime.now(UTC)).count() == 0


def test_history__text_that_no_database_stores(broker: Broker, alice: Worker) -> None:
    queue(1)
    (row,) = claim(broker, alice).rows
    settlement = done(row)
    settlement.task.update(name="zero \0 half \ud800" + "x" * 200, group="g" * 200, result="zero \0 half \ud800")
    broker.settle_and_claim(alice, [settlement])
    task = Task.objects.get()
    assert task.name.startswith("zero \ufffd half ?x")
    assert len(task.name) == len(task.group) == 100
    assert task.result == "zero \0 half \ud800"


def test_history__text_that_means_something_to_a_database(broker: Broker, alice: Worker) -> None:
    """Quotes, escapes, what stands for nothing: all in one batch, so that no value ends up in its neighbour's place."""
    texts = ["", "NULL", '"', '","', "\\", '\\"', "\\\\", "{a,b}", "'", "%s", "a\nb\t\x01", "N", ",N", " ", Text.ONE]
    queue(len(texts))
    settlements = [done(row) for row in claim(broker, alice).rows]
    for number, (settlement, text) in enumerate(zip(settlements, texts, strict=True)):
        group = None if number % 2 else text  # of nothing and something by turns
        settlement.task.update(name=text, path=f"f{text}", group=group, hook=text, args=(text,), result=text)
    broker.settle_and_claim(alice, settlements)
    seen = [(t.name, t.func, t.group, t.hook, t.args, t.result, t.success) for t in Task.objects.order_by("id")]
    wanted = [(t, f"f{t}", None if n % 2 else t, t, (t,), t, True) for n, t in enumerate(texts)]
    assert seen == wanted


def test_history__row_is_what_django_would_have_saved(broker: Broker, alice: Worker) -> None:
    queue(1)
    (row,) = claim(broker, alice).rows
    settlement = done(row)
    broker.settle_and_claim(alice, [settlement])
    stored = Task.objects.get()
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM django_q_task")
        ours = cursor.fetchone()
        stored.save()
        cursor.execute("SELECT * FROM django_q_task")
        assert cursor.fetchone() == ours


def test_table__moments_are_stored_as_django_stores_them() -> None:
    soon, ago = datetime.now(UTC) + timedelta(hours=1), datetime(2026, 11, 24, 1, 2, 3, 4, tzinfo=UTC)
    for due in (soon, ago):
        table_of(connection).insert("notifier", ["package"], due)
        with transaction.atomic():
            table_of(connection).insert("notifier", ["package"], due)
    assert [row.lock for row in OrmQ.objects.order_by("id")] == [soon, soon, for_now(ago), for_now(ago)]


def test_settle_and_claim__a_failed_attempt_whose_transaction_was_rolled_back_before(
    broker: Broker, alice: Worker, bob: Worker
) -> None:
    queue(2)
    (row,), (other,) = claim(broker, alice, 1).rows, claim(broker, bob, 1).rows
    settlement, lease = failed(row), alice.lease
    Worker.objects.filter(pk=alice.pk).update(lease=None)
    with pytest.raises(LeaseLostError):  # after all has been written
        broker.settle_and_claim(alice, [settlement])
    Worker.objects.filter(pk=alice.pk).update(lease=lease)
    broker.settle_and_claim(bob, [failed(other)])  # which takes the ids that the first one had
    broker.settle_and_claim(alice, [settlement])
    assert sorted(FailedAttempt.objects.values_list("row", flat=True)) == [row.id, other.id]
    assert OrmQ.objects.count() == 2


def test_settle_unstorable__a_retry_stays_one(broker: Broker, alice: Worker) -> None:
    queue(1)
    (row,) = claim(broker, alice).rows
    settlement = failed(row)
    broker.settle_and_claim(alice, [outcomes.settle_unstorable(settlement, ValueError("no"))])
    assert OrmQ.objects.get().lock == settlement.retry_at
    assert (FailedAttempt.objects.get().outcome, DeadLetter.objects.count(), Task.objects.count()) == ("failed", 0, 0)


def test_enqueue__and_claim_on_a_connection_that_forgot_its_statements(broker: Broker, alice: Worker) -> None:
    queue(1)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL" if connection.vendor == "postgresql" else "SELECT 1")
    queued = [row.task_id() for row in OrmQ.objects.all()] + queue(1)
    assert ids(claim(broker, alice).rows) == queued


@pytest.mark.parametrize("known", [True, False], ids=["statement known", "statement new"])
def test_enqueue__the_table_is_away(broker: Broker, known: bool) -> None:
    queue(1)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql" and not known:
            cursor.execute("DEALLOCATE ALL")
        cursor.execute(f"ALTER TABLE {QUEUE_TABLE} RENAME TO away")
    try:
        with pytest.raises(DatabaseError, match=QUEUE_TABLE):
            queue(1)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE away RENAME TO {QUEUE_TABLE}")
    queue(1)
    assert OrmQ.objects.count() == 2


def end_connection() -> None:
    """Have the server end this process's connection, as when it is restarted."""
    other = connections.create_connection("default")
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 1000)", [connection.connection.info.backend_pid])
    other.close()


@selection.on_postgresql
def test_enqueue__and_claim_where_a_column_has_another_type_since(broker: Broker, alice: Worker) -> None:
    alter = f"ALTER TABLE {QUEUE_TABLE} ALTER COLUMN id TYPE %s, ALTER COLUMN payload TYPE %s"
    queue(1)
    broker.settle_and_claim(alice, returned=claim(broker, alice).rows)
    with connection.cursor() as cursor:
        cursor.execute(alter % ("smallint", "varchar"))
    try:
        queue(1)
        lease = claim(broker, alice)
        assert len(lease.rows) == 2
    finally:
        with connection.cursor() as cursor:
            cursor.execute(alter % (OrmQ._meta.pk.db_type(connection), "text"))
    broker.settle_and_claim(alice, returned=lease.rows)
    assert len(claim(broker, alice).rows) == 2


@selection.on_postgresql
def test_claim__counts_an_attempt_that_was_lost_while_the_claim_went_on(alice: Worker) -> None:
    queue(1)
    row = OrmQ.objects.get()

    def claim_slowly() -> list[Row]:
        try:
            return Broker().settle_and_claim(alice, claim=2).rows
        finally:
            connections.close_all()

    with connection.cursor() as cursor, ThreadPoolExecutor() as another:
        cursor.execute(f"ALTER TABLE {ATTEMPTS_TABLE} RENAME TO away")
        cursor.execute(f"CREATE VIEW {ATTEMPTS_TABLE} AS SELECT away.* FROM (SELECT pg_sleep(0.5) OFFSET 0) pause, away")  # noqa: S608
        try:
            claiming = another.submit(claim_slowly)
            time.sleep(0.25)  # it has read the row, and counts
            cursor.execute(
                "INSERT INTO away (row, task_id, number, outcome, worker, started, stopped, error) "
                "VALUES (%s, 'id', 1, 'lost', 'bob', now(), now(), '')",
                [row.pk],
            )
            OrmQ.objects.update(lock=row.lock)  # claimed by bob, and freed
            rows = claiming.result(30)
        finally:
            cursor.execute(f"DROP VIEW {ATTEMPTS_TABLE}")
            cursor.execute(f"ALTER TABLE away RENAME TO {ATTEMPTS_TABLE}")
    assert [(row.attempts, row.losses) for row in rows] == [(1, 1)]


@pytest.fixture
def of_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[BaseDatabaseWrapper]:
    """A connection like the one that a worker has for the queue."""
    monkeypatch.setitem(connections.settings, "default", queue_settings())
    connection = connections.create_connection("default")
    yield connection
    connection.close()


def plan_of(connection: BaseDatabaseWrapper, sql: str) -> str:
    """How PostgreSQL would run a statement."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {sql}")
        return "\n".join(line for (line,) in cursor.fetchall())


@selection.on_postgresql
def test_claim__prepared_when_there_were_no_rows_goes_by_an_index(
    broker: Broker, of_worker: BaseDatabaseWrapper, alice: Worker
) -> None:
    with of_worker.cursor() as cursor:
        cursor.execute(f"ANALYZE {QUEUE_TABLE}")  # as the server does now and then
    for _ in range(10):  # from the sixth time on the server may keep the plan
        now = datetime.now(UTC)
        table_of(of_worker).claim_at_once(alice, Claim(limit=1, now=now, lease=now))
    broker.enqueue_all(["as long as a package " * 20] * 5000)
    plan = plan_of(of_worker, "EXECUTE notifier_claim_1 ('notifier', now(), 1, NULL, 'notifier')")
    scans = re.findall(rf"(\w+) Scan(?: using (\w+))? on {QUEUE_TABLE}\b", plan)
    assert sorted(scans) == [("Index", "cluster_claim"), ("Index", "cluster_claim"), ("Tid", ""), ("Tid", "")]
    assert "Index Cond: (((key)::text = $1) AND (lock < '1600-01-01" in plan
    assert "(lock <= statement_timestamp())" in plan
    assert "Seq Scan" not in plan
    assert "Join Filter" not in plan


@selection.on_postgresql
def test_claim__of_rows_that_the_statistics_do_not_know_yet_sorts_no_table(
    broker: Broker, of_worker: BaseDatabaseWrapper
) -> None:
    broker.enqueue_all(["as long as a package " * 20] * 5000)
    now = datetime.now(UTC)
    with CaptureQueriesContext(of_worker) as statements:
        assert len(table_of(of_worker).claim(broker.queue, Claim(limit=128, now=now, lease=now))) == 128
    plan = plan_of(of_worker, statements[0]["sql"])
    assert plan.count("cluster_claim") == 2
    assert plan.count("Sort") == plan.count("Sort Key: for_now.due, for_now.id") * 2 == 2, "of the few rows that were found"


def test_settle_and_claim__what_it_changes_of_a_worker_has_no_index() -> None:
    with connection.cursor() as cursor:
        constraints = connection.introspection.get_constraints(cursor, Worker._meta.db_table)
    indexed = {column for constraint in constraints.values() for column in constraint["columns"]}
    assert indexed >= {"id", "name"}
    assert not indexed & {"lease", "lease_due"}  # else PostgreSQL could not change the row in its place


@selection.on_postgresql
def test_enqueue__a_name_that_postgresql_does_not_store() -> None:
    with pytest.raises(DataError):
        Broker("no\0tifier").enqueue("package")
    assert not OrmQ.objects.exists()


@selection.on_postgresql
def test_enqueue__on_a_connection_that_the_server_ended_before_it_is_looked_at() -> None:
    queue(1)
    end_connection()
    close_old_connections()  # as a request's begin does: the next use looks whether the connection works
    queue(1)
    assert OrmQ.objects.count() == 2


@selection.on_postgresql
def test_enqueue__on_a_connection_that_the_server_ended() -> None:
    queue(1)
    end_connection()
    with pytest.raises(OperationalError):
        queue(1)
    connection.close_if_unusable_or_obsolete()
    queue(1)
    assert OrmQ.objects.count() == 2


NO_ROOM = {
    # What SQLite does when it finds no room in the middle of a transaction: it rolls all of it back, and goes on without one.
    "sqlite": [
        "CREATE TRIGGER no_room BEFORE INSERT ON django_q_task WHEN NEW.id = 'team' "
        "BEGIN SELECT RAISE(ROLLBACK, 'no room'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION no_room() RETURNS trigger AS $$ BEGIN RAISE disk_full; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER no_room BEFORE INSERT ON django_q_task FOR EACH ROW WHEN (NEW.id = 'team') EXECUTE FUNCTION no_room()",
    ],
}


def test_settle__no_room_for_what_an_iter_ends_up_as(alice: Worker) -> None:
    broker = Broker(follow_up=follow_up)
    queue(1)
    lease = claim(broker, alice)
    part = done(lease.rows[0])
    part.task.update(cached=True, group="team", iter_count=1, iter_cached=None)
    with connection.cursor() as cursor:
        for statement in NO_ROOM[connection.vendor]:
            cursor.execute(statement)
    try:
        with pytest.raises(DatabaseError):
            broker.settle_and_claim(alice, [part])
        alice.refresh_from_db()
        assert (alice.lease, OrmQ.objects.get().lock) == (lease.name, lease.name)
        assert not Task.objects.exists()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER no_room" + (" ON django_q_task" if connection.vendor == "postgresql" else ""))
            if connection.vendor == "postgresql":
                cursor.execute("DROP FUNCTION no_room")
    broker.settle_and_claim(alice, [part])
    assert (Task.objects.get().id, OrmQ.objects.count()) == ("team", 0)
