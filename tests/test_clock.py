"""What is for now runs now, and in its order, whatever any clock says. Retries go by the clock that all hosts share."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.contrib.admin import site
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test import RequestFactory
from django_q.models import OrmQ, Success
from django_q.tasks import async_task

from durable_queue.admin.queue import QueueAdmin
from durable_queue.intake import packaging
from durable_queue.models import FailedAttempt, Worker
from durable_queue.states import State, due_since, for_now, rows_in, state_of_row
from durable_queue.store import ahead
from durable_queue.store.broker import Broker
from durable_queue.store.freeing import free
from durable_queue.store.leases import Row
from durable_queue.upkeep.clock import Clock as Watch
from durable_queue.work import outcomes
from tests.support import environment, selection
from tests.support.clocks import Clock
from tests.support.clusters import Cluster, all_end
from tests.support.processes import PROJECT, wait_until
from tests.support.promised_tasks import read_notes
from tests.support.queue_rows import worker

pytestmark = pytest.mark.django_db(transaction=True)

NOTE, WAIT, FAIL_ONCE = (
    f"tests.support.{name}"
    for name in ("promised_tasks.note", "side_by_side_tasks.note_and_wait", "promised_tasks.fail_twice_at_most")
)
HOUR = timedelta(hours=1)


def queue(*names: object) -> None:
    """Queue a task for each name, by this process's clock."""
    for name in names:
        async_task(NOTE, name, task_name=str(name))


def queue_elsewhere(names: Sequence[object], clock: Clock) -> None:
    """Queue a task for each name, in a process with that clock: by twos in a transaction, and one by one."""
    program = (
        "import django; django.setup()\n"
        "from django.db import transaction\n"
        "from django_q.tasks import async_task\n"
        f"names = {list(names)!r}\n"
        "with transaction.atomic():\n"
        f"    for name in names[:2]: async_task({NOTE!r}, name, task_name=str(name))\n"
        f"for name in names[2:]: async_task({NOTE!r}, name, task_name=str(name))\n"
    )
    subprocess.run([sys.executable, "-c", program], env=settings_of_test() | clock.env, check=True, cwd=PROJECT)


def settings_of_test() -> dict[str, str]:
    """What other processes need for the database of the running test."""
    own = {"DATABASE_URL": environment.database_url_of_test(), "DJANGO_SETTINGS_MODULE": "tests.support.promised_settings"}
    return os.environ | own


def names_of(rows: Sequence[Row]) -> list[str]:
    """The names of the tasks of claimed rows."""
    return [outcomes.read(row)["name"] for row in rows]


def claimed(limit: int = 128) -> list[str]:
    """The names of the tasks that a new worker claims, in their order."""
    return names_of(Broker().settle_and_claim(worker(f"w{Worker.objects.count()}"), claim=limit).rows)


@pytest.mark.parametrize("seconds", [12, -3600])
def test_host__whose_clock_differs_queues_for_now(tmp_path: Path, seconds: int) -> None:
    queue("first")
    queue_elsewhere(["second", "third", "fourth"], Clock(tmp_path, ahead=seconds))
    queue("fifth")
    assert Broker().queue_size() == 5
    assert Broker().wait_until_due() == 0
    if environment.DATABASE == "postgresql":  # whose clock counts for all hosts; on SQLite, there is one host, and one clock
        assert claimed(2) == ["first", "second"]
        assert claimed() == ["third", "fourth", "fifth"]
    else:
        assert sorted(claimed()) == ["fifth", "first", "fourth", "second", "third"]


def test_cluster__whose_clock_is_set_back(cluster: Cluster, no_notes: None, tmp_path: Path) -> None:
    clock, own = Clock(tmp_path, ahead=3600), {"threads": 1, "workers": 1, "claim": 1}
    async_task(WAIT, "slow", 2.5, task_name="slow")
    queue_elsewhere(range(10), clock)
    with cluster(env=clock.env, **own) as output:
        wait_until(read_notes, what="the first one runs")
        clock.set(0)
        queue(*range(10, 15))
        wait_until(lambda: Broker().queue_size() == 15, what="the worker has given back what it has not begun")
        all_end(timeout=8)
    assert read_notes() == [["slow"], *([number] for number in range(15))]
    took = [task.time_taken() for task in Success.objects.order_by("started")]
    assert all(-0.001 <= seconds < 10 for seconds in took), "django-q2's qinfo shows their average"
    assert Success.objects.get(name="slow").time_taken() >= 2.5
    assert "The clock was set back by 3600 s" in output.read_text()


@selection.on_postgresql
def test_retry__of_a_host_whose_clock_is_ahead(cluster: Cluster, no_notes: None, tmp_path: Path) -> None:
    """It waits for as long as its backoff says, by the server's clock, and so it does on any other host."""
    began = time.monotonic()
    with cluster(env=Clock(tmp_path, ahead=600).env, backoff_base=0.5) as output:
        async_task(FAIL_ONCE)
        wait_until(FailedAttempt.objects.exists, what="it has failed")
        assert OrmQ.objects.get().lock < datetime.now(UTC) + timedelta(seconds=30)
        OrmQ.objects.all().delete()
        wait_until(lambda: "600.0 s behind this host's" in output.read_text(), what="the difference is noticed")
    assert time.monotonic() - began < 20


def test_delay__that_is_over_has_its_place(tmp_path: Path) -> None:
    """A retry, a row of stock django-q2: neither overtakes what was queued before it was due, nor waits for what came later."""
    queue("before", "retry", "after", "stock", "last", "tomorrow")
    rows = {str(outcomes.read(Row(row.pk, row.lock, row.payload))["name"]): row for row in OrmQ.objects.all()}
    for name, after in (("retry", "before"), ("stock", "after")):
        OrmQ.objects.filter(pk=rows[name].pk).update(lock=due_since(rows[after].lock) + timedelta(microseconds=1))
    OrmQ.objects.filter(pk=rows["tomorrow"].pk).update(lock=datetime.now(UTC) + timedelta(days=1))
    assert claimed(3) == ["before", "retry", "after"]
    assert claimed() == ["stock", "last"]
    assert claimed() == []
    assert 86_000 < (Broker().wait_until_due() or 0) <= 86_400


def test_delay__that_is_over_while_the_queue_is_kept_full() -> None:
    broker = Broker()
    for number in range(3):
        queue(f"retry {number}")
        row = OrmQ.objects.latest("pk")
        OrmQ.objects.filter(pk=row.pk).update(lock=due_since(row.lock))
    row = OrmQ.objects.latest("pk")
    broker.enqueue_all([row.payload] * 10_000)
    carol = worker("carol")
    lease = broker.settle_and_claim(carol, claim=128)
    assert names_of(lease.rows[:3]) == ["retry 0", "retry 1", "retry 2"]
    assert len(lease.rows) == 128
    broker.enqueue_all([row.payload] * 128)
    assert [each.id for each in broker.settle_and_claim(carol, claim=128, keep=True).rows] == [
        lease.rows[-1].id + number for number in range(1, 129)
    ]


def test_delays__more_than_a_claim_takes() -> None:
    queue(*range(20))
    for row in OrmQ.objects.order_by("pk"):
        OrmQ.objects.filter(pk=row.pk).update(lock=due_since(row.lock))
    queue(*range(20, 24))
    assert [name for _ in range(4) for name in claimed(7)] == [str(number) for number in range(24)]


def test_claim__has_a_limit_with_delays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    queue("retry", "long")
    row, long = OrmQ.objects.order_by("pk")
    OrmQ.objects.filter(pk=row.pk).update(lock=due_since(row.lock))
    OrmQ.objects.filter(pk=long.pk).update(payload=long.payload + " " * (9 << 20))
    assert claimed() == ["retry"]
    assert len(Broker().settle_and_claim(worker("carol"), claim=128).rows) == 1


def test_row__given_back_or_freed_keeps_its_place() -> None:
    queue(*range(4))
    broker, alice, bob = Broker(), worker("alice"), worker("bob")
    locks = dict(OrmQ.objects.values_list("pk", "lock"))
    lease = broker.settle_and_claim(alice, claim=2)
    broker.settle_and_claim(alice, returned=lease.rows)
    assert dict(OrmQ.objects.values_list("pk", "lock")) == locks
    broker.settle_and_claim(bob, claim=3)
    free(broker, bob)
    assert claimed() == ["0", "1", "2", "3"]


def test_enqueue__since_a_moment_that_has_come_or_will() -> None:
    """As a schedule does, whose run was due before it was looked at."""
    queue("now")
    (row,) = OrmQ.objects.all()
    Broker().enqueue_all([row.payload.strip()], due=datetime.now(UTC) - timedelta(minutes=1))
    Broker().enqueue_all([row.payload.strip()], due=datetime.now(UTC) + HOUR)
    Broker("other").enqueue_all([row.payload], due=datetime(1, 1, 2, tzinfo=UTC))  # as nobody means it
    assert Broker("other").settle_and_claim(worker("bob", queue="other"), claim=1).rows
    first, later = OrmQ.objects.filter(key="notifier").exclude(pk=row.pk).order_by("pk")
    assert [each.id for each in Broker().settle_and_claim(worker("alice"), claim=8).rows] == [first.pk, row.pk]
    assert state_of_row(later.lock, 0) is State.SCHEDULED


def set_back(seconds: int) -> None:
    """Have all queued rows be of a clock that was ahead by so many seconds, as that of a server may be."""
    for row in OrmQ.objects.all():
        OrmQ.objects.filter(pk=row.pk).update(lock=row.lock + timedelta(seconds=seconds))


def test_watch__gives_what_was_queued_ahead_its_place(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "BATCH", 2)
    queue(*range(5))
    set_back(3600)
    last = OrmQ.objects.latest("pk")
    for _ in range(2):  # what came since the clock was set back, before upkeep looked
        OrmQ.objects.create(key="notifier", payload=last.payload, lock=for_now(datetime.now(UTC)))
    alone = Broker("notifier:alone")
    alone.enqueue(last.payload)
    OrmQ.objects.filter(key="notifier:alone").update(lock=for_now(datetime.now(UTC) + HOUR))
    held = Broker().settle_and_claim(worker("alice"), claim=1).rows
    assert Watch(Broker()).look() <= 1
    assert "tasks were queued by a clock that was 3600 s ahead: they keep their order" in caplog.text
    assert not [row for row in OrmQ.objects.exclude(pk=held[0].id) if due_since(row.lock) > datetime.now(UTC)]
    ids = list(OrmQ.objects.filter(key="notifier").exclude(pk=held[0].id).order_by("pk").values_list("pk", flat=True))
    assert [row.id for row in Broker().settle_and_claim(worker("bob"), claim=8).rows] == ids
    caplog.clear()
    Watch(Broker()).look()
    assert not caplog.records


@selection.on_postgresql
def test_watch__leaves_what_is_being_claimed() -> None:
    queue(*range(3))
    set_back(3600)
    with transaction.atomic():
        OrmQ.objects.select_for_update().get(pk=OrmQ.objects.earliest("pk").pk)

        def look() -> float:
            try:
                return Watch(Broker()).look()
            finally:
                connections.close_all()

        with ThreadPoolExecutor() as another:
            assert another.submit(look).result(10) <= 1
    ahead_still = [row for row in OrmQ.objects.all() if due_since(row.lock) > datetime.now(UTC)]
    assert len(ahead_still) == 1


def test_started__is_not_later_than_now() -> None:
    """What receivers find in a task whose row was queued before the clock was set back."""
    packaging.enqueue(NOTE, ("one",), {}, name="one")
    set_back(3600)
    (row,) = Broker().settle_and_claim(worker("alice"), claim=1).rows
    assert outcomes.read(row)["started"] <= datetime.now(UTC) < row.due


def test_states__of_rows_that_are_for_now(rf: RequestFactory) -> None:
    queue("one")
    row = OrmQ.objects.get()
    assert state_of_row(row.lock, 0) is state_of_row(row.lock, 0, datetime(2000, 1, 1, tzinfo=UTC)) is State.QUEUED
    set_back(3600)
    assert OrmQ.objects.filter(rows_in(State.QUEUED)).count() == 1
    assert (Broker().queue_size(), Broker().lock_size()) == (1, 0)
    page = QueueAdmin(OrmQ, site)
    row = page.get_queryset(rf.get("/")).get()
    assert (page.state(row) or "").startswith("Due")
    assert (page.due(row) or "")[:4] == str(datetime.now(UTC).year)


def test_delay__by_the_clock_that_all_hosts_share() -> None:
    """A web host whose clock is behind shows it as due when the server does."""
    queue("one")
    OrmQ.objects.update(lock=datetime.now(UTC) + HOUR)
    row = OrmQ.objects.get()
    assert state_of_row(row.lock, 0) is State.SCHEDULED
    assert state_of_row(row.lock, 0, datetime.now(UTC) + 2 * HOUR) is State.QUEUED


@selection.on_postgresql
def test_check__of_a_host_whose_clock_differs(tmp_path: Path) -> None:
    env, check = settings_of_test() | Clock(tmp_path, ahead=-12).env, [sys.executable, "manage.py", "check", "--database"]
    warning = subprocess.run([*check, "default"], env=env, cwd=PROJECT, capture_output=True, text=True, check=True).stderr
    assert "W006" in warning
    assert "12.0 s ahead of this host's" in warning


def test_check__of_clocks_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("check", databases=["default"])
    assert "W006" not in capsys.readouterr().err


@selection.on_postgresql
@pytest.mark.parametrize("moment", ["-infinity", "0044-03-15 BC", "infinity"])
def test_row__at_a_moment_that_is_none(moment: str) -> None:
    """It keeps no other row waiting."""
    queue("one", "two")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_q_ormq SET lock = %s WHERE id = %s", [moment, OrmQ.objects.earliest("pk").pk])
    assert Broker().wait_until_due() == 0
    assert claimed() == (["two"] if moment == "infinity" else ["one", "two"])
    assert Broker().wait_until_due() is None
