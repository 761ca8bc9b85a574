"""The scheduler: which schedules run, with what, and when next. Its faults are in test_scheduler_faults.py."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule
from django_q.scheduler import scheduler as scheduler_of_django_q
from pytest_django import Settings

from durable_queue.models import ScheduleState
from durable_queue.schedule.due import Due, plan
from durable_queue.states import due_since
from durable_queue.store.broker import Broker
from durable_queue.store.leases import alone_queue
from durable_queue.task.identifiers import new_task_id
from durable_queue.upkeep.ended import Ended
from durable_queue.upkeep.life import Life
from durable_queue.upkeep.schedules import DueSchedules
from tests.support import selection
from tests.support.scheduling import add, groups, next_run, receiver, run_all, scheduler, state, tasks, write

pytestmark = pytest.mark.django_db

MINUTE, HOUR, YEARS = timedelta(minutes=1), timedelta(hours=1), timedelta(days=6 * 365)


@pytest.fixture(autouse=True)
def no_catch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the service."""
    monkeypatch.setattr(Conf, "CATCH_UP", False)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# What runs.


def test_run__enqueues_the_task_and_moves_on() -> None:
    schedule = add("hourly", args="1, 'two'", kwargs="three=3")
    due = next_run(schedule)
    run_all()
    (task,) = tasks()
    assert (task["func"], task["args"], task["kwargs"]) == ("tests.support.promised_tasks.add", (1, "two"), {"three": 3})
    assert (task["group"], task["cluster"]) == ("hourly", "notifier")
    assert task["started"] > due, "when it was queued"
    assert Schedule.objects.get().task == task["id"]
    assert next_run(schedule) == due + HOUR
    found = state(schedule)
    assert (found.anchor, found.computed, found.last_run, found.problem) == (due, due + HOUR, due, "")


def test_run__runs_before_what_was_queued_after_it_was_due() -> None:
    add("a minute late", ago=MINUTE)
    Broker().enqueue_all(["queued a second ago"], due=timezone.now() - timedelta(seconds=1))
    run_all()
    first, second = OrmQ.objects.order_by("lock", "id")
    assert second.payload == "queued a second ago"
    assert due_since(first.lock) == state(Schedule.objects.get().pk).last_run


@pytest.mark.parametrize(
    "fields",
    [
        {"next_run": datetime(2999, 1, 1, tzinfo=UTC)},
        {"next_run": None},
        {"repeats": 0},
        {"cluster": "elsewhere"},
    ],
    ids=["later", "never", "at its end", "another cluster's"],
)
def test_run__only_what_is_due(fields: dict[str, Any]) -> None:
    add("other", **fields)
    add("due")
    run_all()
    assert groups() == ["due"]


def test_run__not_what_is_paused() -> None:
    ScheduleState.objects.create(schedule_id=add("paused"), paused_by="Alice", paused_at=timezone.now())
    add("due")
    run_all()
    assert groups() == ["due"]


@pytest.mark.parametrize("cluster", [None, "", "notifier"], ids=["NULL", "empty", "named"])
def test_run__of_its_own_cluster(cluster: str | None) -> None:
    add("own", cluster=cluster)
    run_all()
    assert groups() == ["own"]


def test_run__of_an_alternative_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those without a name belong to the cluster with the site's name."""
    add("nameless")
    add("own", cluster="second")
    run_all(DueSchedules(Broker("second"), Life()))
    assert groups() == ["own"]
    assert OrmQ.objects.get().key == "second"


def test_run__onto_another_clusters_queue() -> None:
    add("sent on", kwargs="{'q_options': {'cluster': 'second'}}")
    run_all()
    assert OrmQ.objects.get().key == "second"
    assert OrmQ.objects.get().key != alone_queue("second")


@pytest.mark.parametrize(
    "kwargs",
    [
        "timeout=5, group='others', task_name='Bob', save=False, x=1",
        "{'q_options': {'timeout': 5, 'group': 'others', 'task_name': 'Bob', 'save': False}, 'x': 1}",
        "q_options={'timeout': 5, 'group': 'others', 'task_name': 'Bob', 'save': False, 'sync': True}, x=1",
    ],
    ids=["keywords", "q_options", "sync"],
)
def test_run__with_options(kwargs: str) -> None:
    add("optional", kwargs=kwargs, hook="tests.support.promised_tasks.hook")
    run_all()
    (task,) = tasks()
    assert task["kwargs"] == {"x": 1}
    assert (task["timeout"], task["group"], task["name"], task["save"]) == (5, "others", "Bob", False)
    assert task["hook"] == "tests.support.promised_tasks.hook"
    assert "sync" not in task, "it would run where all schedules are looked at"


def test_run__tells_receivers() -> None:
    add("told")
    seen: list[Any] = []
    with receiver(lambda task: seen.append((task["group"], task["id"]))):
        run_all()
    assert seen == [("told", tasks()[0]["id"])]


def test_run__tells_when_it_was_due() -> None:
    due = at("2026-01-01 07:30")
    add("dated", next_run=due, intended_date_kwarg="at")
    run_all()
    assert tasks()[0]["kwargs"] == {"at": "2026-01-01T07:30:00+00:00"}


def test_run__leaves_a_doubt() -> None:
    """Which is no reason not to run: the function may be unknown in the process that saved it only."""
    schedule = add("doubted")
    ScheduleState.objects.create(schedule_id=schedule, problem="There is no function f.", problem_fingerprint="doubt:1")
    run_all()
    assert (groups(), state(schedule).problem) == (["doubted"], "There is no function f.")
    assert state(schedule).last_run


# How often.


@pytest.mark.parametrize(("before", "after"), [(3, 2), (1, 0), (-1, -1), (-7, -1)])
def test_repeats(before: int, after: int) -> None:
    add("repeated", repeats=before, ago=10 * HOUR)
    run_all()
    assert len(tasks()) == 1
    assert Schedule.objects.get().repeats == after


def test_once__is_deleted() -> None:
    schedule = add("once", schedule_type=Schedule.ONCE)
    run_all()
    Ended(Broker(), Life()).delete()
    run_all()
    assert groups() == ["once"]
    assert not Schedule.objects.exists()
    assert not ScheduleState.objects.filter(pk=schedule).exists()


def test_once__with_repeats_is_kept() -> None:
    add("once", schedule_type=Schedule.ONCE, repeats=1)
    run_all()
    Ended(Broker(), Life()).delete()
    assert (groups(), Schedule.objects.get().repeats) == (["once"], 0)


def test_ended__leaves_what_was_never_run() -> None:
    add("never", schedule_type=Schedule.ONCE, next_run=None, repeats=0)
    Ended(Broker(), Life()).delete()
    assert Schedule.objects.count() == 1


def test_ended__what_others_have_deleted_leaves_nothing() -> None:
    ScheduleState.objects.create(schedule_id=4711, zone="Europe/Berlin")
    kept = ScheduleState.objects.create(schedule_id=add("kept"), zone="Europe/Berlin")
    Ended(Broker(), Life()).delete()
    assert list(ScheduleState.objects.values_list("pk", flat=True)) == [kept.pk]


def test_late__one_run_for_all_in_no_time() -> None:
    schedule = add("minutely", schedule_type=Schedule.MINUTES, minutes=1, ago=YEARS, intended_date_kwarg="at")
    due, began = next_run(schedule), time.monotonic()
    run_all()
    assert time.monotonic() - began < 1.0
    assert [task["kwargs"]["at"] for task in tasks()] == [due.isoformat()]
    assert timedelta() < next_run(schedule) - timezone.now() <= MINUTE
    assert (next_run(schedule) - due) % MINUTE == timedelta()


def test_late__by_two_thousand_years() -> None:
    schedule = add("ancient", next_run=at("0031-04-03 15:00"))
    add("good")
    run_all()
    assert groups() == ["ancient", "good"]
    assert next_run(schedule) > timezone.now()
    assert all(due_since(row.lock) > timezone.now() - timedelta(days=400) for row in OrmQ.objects.all())


def test_catch_up__each_missed_run_in_order_and_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "CATCH_UP", True)
    schedule = add("minutely", schedule_type=Schedule.MINUTES, minutes=1, ago=150 * MINUTE, intended_date_kwarg="at")
    add("on time")
    due = next_run(schedule)
    assert scheduler().run() == 0.0
    assert "on time" in groups()
    assert len(tasks()) == 100 + 1
    run_all()
    missed = [datetime.fromisoformat(task["kwargs"]["at"]) for task in tasks() if task["group"] == "minutely"]
    assert missed == [due + number * MINUTE for number in range(151)]
    assert next_run(schedule) > timezone.now()


def test_catch_up__counts_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "CATCH_UP", True)
    add("minutely", schedule_type=Schedule.MINUTES, minutes=1, ago=20 * MINUTE, repeats=7)
    run_all()
    assert len(tasks()) == 7
    assert Schedule.objects.get().repeats == 0


# When next.


def due_daily(zone: str, moment: datetime) -> Due:
    """A row as it is read."""
    values: dict[str, Any] = dict.fromkeys(
        ("name", "hook", "args", "kwargs", "minutes", "cron", "task", "cluster", "intended_date_kwarg")
    )
    return Due(id=1, func="f", schedule_type="D", repeats=-1, seen=str(moment), next_run=moment, zone=zone, **values)


@pytest.mark.parametrize(
    ("zone", "runs"),
    [
        ("Europe/Berlin", ["2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30", "2026-03-31 00:30"]),
        ("", ["2026-03-07 07:30", "2026-03-08 07:00", "2026-03-09 06:30", "2026-03-10 06:30"]),
    ],
    ids=["its own", "the installation's"],
)
def test_zone__half_past_two_stays_so_when_the_clocks_change(settings: Settings, zone: str, runs: list[str]) -> None:
    settings.NOTIFIER_TIME_ZONE = "America/New_York"
    due = due_daily(zone, at(runs[0]))
    for expected in runs[1:]:
        assert due.next_run
        planned = plan(due, due.next_run)
        assert planned.next_run == at(expected)
        due = replace(due, next_run=planned.next_run, computed=planned.next_run, anchor=planned.anchor, last_run=due.next_run)


def test_anchor__the_last_day_of_the_month(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the 31st of January to the 28th of February, and back."""
    monkeypatch.setattr(Conf, "CATCH_UP", True)
    schedule = add(
        "monthly", schedule_type=Schedule.MONTHLY, next_run=at("2026-01-31 12:00"), repeats=3, intended_date_kwarg="at"
    )
    run_all()
    assert [task["kwargs"]["at"][:10] for task in tasks()] == ["2026-01-31", "2026-02-28", "2026-03-31"]
    assert next_run(schedule) == at("2026-04-30 12:00")


def test_anchor__who_moves_the_next_run_moves_it() -> None:
    schedule = add("monthly", schedule_type=Schedule.MONTHLY, next_run=at("2026-01-31 12:00"))
    run_all()
    moved = timezone.now() - timedelta(seconds=1)
    Schedule.objects.update(next_run=moved)
    run_all()
    assert len(tasks()) == 2
    assert state(schedule).anchor == moved


def test_anchor__a_run_of_django_qs_own_scheduler_leaves_it() -> None:
    """It knows no anchor: it moves on to the 28th for ever."""
    schedule = add("monthly", schedule_type=Schedule.MONTHLY)
    anchor, computed = timezone.now() - 60 * timedelta(days=1), timezone.now() - 5 * MINUTE
    ScheduleState.objects.create(schedule_id=schedule, zone="Europe/Berlin", anchor=anchor, computed=computed)
    Schedule.objects.update(task=new_task_id())  # it has run what we computed
    run_all()
    assert (state(schedule).anchor, state(schedule).zone) == (anchor, "Europe/Berlin")


def test_stale__what_an_old_copy_puts_back_is_not_run_again() -> None:
    schedule = add("hourly")
    due = next_run(schedule)
    run_all()
    Schedule.objects.update(next_run=due)  # as saved by a page that was opened before the run
    run_all()
    assert len(tasks()) == 1
    assert next_run(schedule) == due + HOUR


def test_stale__a_moment_of_ones_own_in_the_past_runs_at_once() -> None:
    schedule = add("hourly")
    run_all()
    Schedule.objects.update(next_run=timezone.now() - 3 * HOUR)
    run_all()
    assert len(tasks()) == 2
    assert next_run(schedule) > timezone.now()


def test_cron__of_years_that_are_over_makes_its_last_run() -> None:
    schedule = add("of 2025", schedule_type=Schedule.CRON, cron="0 12 31 12 * 0 2025", next_run=at("2025-12-31 12:00"))
    run_all()
    assert groups() == ["of 2025"]
    assert next_run(schedule) is None


# When it looks.


def test_look__sleeps_until_the_next_is_due() -> None:
    add("soon", next_run=timezone.now() + timedelta(seconds=0.5))
    assert 0.0 < scheduler().run() <= 0.5


def test_look__once_a_second_when_nothing_is_due() -> None:
    assert scheduler().run() == 1.0


def test_look__does_nothing_where_another_scheduler_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "SCHEDULER", False)
    add("due")
    scheduler().run()
    assert not tasks()


def test_look__a_thousand_at_once() -> None:
    Schedule.objects.bulk_create(
        Schedule(func="builtins.print", name=str(number), schedule_type="H", next_run=timezone.now() - MINUTE)
        for number in range(1000)
    )
    began = time.process_time()
    run_all()
    assert time.process_time() - began < 5
    assert len(set(groups())) == 1000


# Who claims.


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("other", ["a second cluster", "django-q2's own scheduler"])
def test_claim__of_two_one_wins(other: str) -> None:
    """Each run once, whoever makes it."""
    names = [f"schedule {number}" for number in range(60)]
    Schedule.objects.bulk_create(
        Schedule(func="builtins.print", name=name, schedule_type="H", next_run=timezone.now() - MINUTE) for name in names
    )
    together = threading.Barrier(2, timeout=20)

    def ours() -> None:
        try:
            together.wait()
            run_all()
        finally:
            connections.close_all()

    def others() -> None:
        try:
            together.wait()
            run_all() if other == "a second cluster" else scheduler_of_django_q(broker=Broker())
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(ours), threads.submit(others)]:
            done.result(60)
    run_all()
    assert groups() == sorted(names)


@selection.on_postgresql
@pytest.mark.django_db(transaction=True)
def test_claim__of_two_clusters_one_tells_receivers() -> None:
    for number in range(60):
        add(f"schedule {number}")
    told: list[str] = []
    together = threading.Barrier(2, timeout=20)

    def look() -> None:
        try:
            together.wait()
            run_all()
        finally:
            connections.close_all()

    with receiver(lambda task: told.append(task["group"])), ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(look), threads.submit(look)]:
            done.result(60)
    assert sorted(told) == groups()


def test_claim__a_schedule_that_has_changed_meanwhile_is_judged_anew() -> None:
    """A receiver takes its time; meanwhile somebody has moved the schedule."""
    schedule = add("moved")
    moved, go_on = threading.Event(), threading.Event()

    def take_time(task: dict[str, Any]) -> None:
        moved.set()
        go_on.wait(10)

    with receiver(take_time):
        due = scheduler()
        due.run()
        assert moved.is_set()
        write(schedule, "next_run", at("2999-01-01 00:00"))
        go_on.set()
        time.sleep(0.1)
        due.run()
    assert not tasks()
    assert next_run(schedule) == at("2999-01-01 00:00")
