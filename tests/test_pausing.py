"""A paused queue accepts tasks and runs none, on any host, until it is resumed."""

import logging
import math
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from django.db import connections, transaction
from django.test import Client
from django.utils import timezone
from django_q.conf import logger
from django_q.models import OrmQ, Schedule, Success
from django_q.tasks import async_task

from durable_queue.models import FailedAttempt, PausedQueue, Worker
from durable_queue.states import held
from durable_queue.store import pausing, wakeup
from durable_queue.store.broker import Broker
from durable_queue.store.leases import new_name
from durable_queue.store.rows import Claim
from durable_queue.upkeep.paused import Paused
from tests.support import environment, selection
from tests.support.admin_site import page, post, take
from tests.support.clusters import Cluster, all_end
from tests.support.hosts import hosts_of, runs, working_host
from tests.support.processes import manage, wait_until
from tests.support.queue_rows import listener, worker

pytestmark = pytest.mark.django_db(transaction=True)

TASK = "tests.support.cluster_tasks.take_one"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What django-q2's logger says, which passes nothing on."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING)
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
        "The queue 'notifier' was paused by 'alice' ('the mail server is down')",
        "The queue 'notifier' was resumed by 'bob'",
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


# With clusters.

WAIT = "tests.support.side_by_side_tasks.wait"


def moments() -> list[float]:
    """When the tasks that succeeded have begun, in seconds since 1970."""
    return sorted(task.result["began"] for task in Success.objects.all())


def wait_until_idle() -> float:
    """Wait until no worker holds a row; return when that was, in seconds since 1970."""
    wait_until(lambda: not OrmQ.objects.filter(held()).exists(), what="nothing is held")
    return time.time()


def queue_all(count: int, seconds: float, function: str = WAIT) -> None:
    """Queue so many tasks, each of which waits for so long."""
    with transaction.atomic():
        for _ in range(count):
            async_task(function, seconds)


def test_cluster__begins_nothing_while_its_queue_is_paused(cluster: Cluster) -> None:
    """40 threads have a backlog of slow tasks. What they have in hand ends, what they have claimed goes back."""
    queue_all(200, 0.5)
    with cluster() as output:
        wait_until(Success.objects.exists, what="some have run")
        pause()
        idle = wait_until_idle()
        async_task(WAIT, 0)
        left = OrmQ.objects.count()
        assert left > 1
        wait_until(lambda: "'notifier' is paused by 'alice'" in output.read_text(), what="the cluster says so")
        assert OrmQ.objects.count() == left
        resumed = time.time()
        resume()
        all_end()
    assert not [began for began in moments() if idle < began < resumed]
    assert Success.objects.filter(attempt_count=1).count() == 201


@selection.slow_on_postgresql
def test_cluster__gives_back_a_batch_that_it_has_begun(cluster: Cluster) -> None:
    """One thread, and tasks of 40 ms, which are no reason to give anything back."""
    queue_all(120, 0.04)
    with cluster(threads=1):
        wait_until(Success.objects.exists, what="some have run")
        pause()
        wait_until_idle()
    assert Success.objects.count() < 80


@selection.slow_on_postgresql
def test_cluster__that_is_paused_does_not_spin(cluster: Cluster) -> None:
    pause()
    queue_all(100, 0)
    with cluster(threads=4):
        process = psutil.Process(Worker.objects.get().pid)
        before = sum(process.cpu_times()[:2])
        for _ in range(3000):  # as if so many were queued
            wakeup.wake("notifier")
            time.sleep(0.001)  # else it would hear of all at once
        assert sum(process.cpu_times()[:2]) - before < 0.4
        assert OrmQ.objects.count() == 100


def test_cluster__killed_while_its_queue_is_paused(cluster: Cluster) -> None:
    queue_all(60, 1.0)
    with cluster(ends_with=-signal.SIGKILL):
        wait_until(lambda: OrmQ.objects.filter(held()).count() >= 30, what="they are in hand")
        pause()
        for process in processes_of_clusters():
            process.kill()
    with cluster() as output:
        idle = wait_until_idle()
        wait_until(lambda: "'notifier' is paused by 'alice'" in output.read_text(), what="the cluster says so")
        assert OrmQ.objects.count() == 60, "lost tasks wait, too"
        resumed = time.time()
        resume()
        all_end()
    assert output.read_text().count("is paused by 'alice'") == 1
    assert not [began for began in moments() if idle < began < resumed]
    assert Success.objects.count() == 60


def processes_of_clusters() -> list[psutil.Process]:
    """The supervisor and its children."""
    supervisor = psutil.Process(Worker.objects.values_list("supervisor_pid", flat=True)[0])
    return [supervisor, *supervisor.children(recursive=True)]


def test_schedule__of_a_paused_queue_goes_on(cluster: Cluster) -> None:
    pause()
    Schedule.objects.create(func="math.hypot", args="3, 4", schedule_type=Schedule.ONCE, next_run=timezone.now())
    with cluster():
        wait_until(OrmQ.objects.exists, what="its task is queued")
        assert not Success.objects.exists()
        resume()
        all_end()


@selection.slow_on_postgresql
def test_run_once__of_a_paused_queue_ends(cluster: Cluster) -> None:
    pause()
    queue_all(3, 0)
    manage("qcluster", "--run-once", env={"DATABASE_URL": environment.database_url_of_test()})
    assert OrmQ.objects.count() == 3


@selection.on_postgresql
@selection.slow
def test_hosts__pause_together_and_go_on_within_a_second(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with working_host("alpha", tmp_path), working_host("beta", tmp_path):
        for number in range(60):
            async_task("tests.support.host_tasks.note_host", str(notes), number, 0.5)
        wait_until(lambda: notes.exists() and hosts_of(notes) == {"alpha", "beta"}, what="both work")
        pause()
        wait_until_idle()
        begun = runs(notes).total()
        assert begun < 60
        time.sleep(3)  # longer than any worker waits between two looks
        assert runs(notes).total() == begun
        resume()
        notes.unlink()
        wait_until(lambda: notes.exists() and hosts_of(notes) == {"alpha", "beta"}, timeout=1.5, what="both go on")
        all_end()
    assert not FailedAttempt.objects.exists()


# What people see.


def test_upkeep__says_it_once(said: pytest.LogCaptureFixture) -> None:
    pause()
    said.clear()
    duty = Paused(Broker())
    for verb in (None, None, resume, None, pause):
        if verb:
            verb()
        duty.look()
    lines = [record.getMessage() for record in said.records if record.module == "paused"]
    assert [line.partition(" since")[0] for line in lines] == [
        "The queue 'notifier' is paused by 'alice'",
        "The queue 'notifier' is paused no more",
        "The queue 'notifier' is paused by 'alice'",
    ]
    assert lines[0].endswith(" UTC ('the mail server is down'): its tasks wait")


def test_admin__says_who_paused_what_is_due(admin_client: Client) -> None:
    post("alice")
    post("bob"), take(1)
    OrmQ.objects.filter(pk=OrmQ.objects.latest("pk").pk).update(key="notifier:alone")
    assert "paused" not in page(admin_client, "django_q_ormq_changelist")
    pause()
    html = page(admin_client, "django_q_ormq_changelist")
    assert html.count("paused by alice since 20") == 1
    assert "Taken by worker" in html
