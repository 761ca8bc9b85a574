"""One bad schedule never stops the others: rows that can't be run, receivers that hang, locks of strangers, dead processes."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
from django.apps import apps
from django.db import IntegrityError, OperationalError, connection, connections, models, transaction
from django.db.models.signals import post_delete, pre_delete
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule

from durable_queue.models import ScheduleState, Worker
from durable_queue.store.broker import Broker
from durable_queue.store.schedules import Schedules
from durable_queue.upkeep import schedules as looks
from durable_queue.upkeep.aside import Aside
from durable_queue.upkeep.ended import Ended
from durable_queue.upkeep.lane import Duty, Lane
from durable_queue.upkeep.life import DEADLY, Life, watch_connections
from tests.support import environment, selection
from tests.support.processes import queue_workers, wait_until
from tests.support.scheduling import add, groups, next_run, receiver, run_all, scheduler, state, write

pytestmark = pytest.mark.django_db
real = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_catch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the service."""
    monkeypatch.setattr(Conf, "CATCH_UP", False)


def errors_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


# Rows that can't be run.

BROKEN: dict[str, tuple[str, object, str]] = {
    "a Decimal": ("args", "(Decimal('3'), 4)", "arguments"),
    "a date": ("args", "(datetime.date(2026, 1, 1),)", "arguments"),
    "bare text": ("args", "hello", "arguments"),
    "deep nesting": ("args", "(" * 500 + ")" * 500, "arguments"),
    "an argument that django-q2 leaves out": ("kwargs", "when=datetime.datetime(2026, 1, 1)", "keyword arguments"),
    "a list of keyword arguments": ("kwargs", "[1]", "keyword arguments"),
    "positional keyword arguments": ("kwargs", "1, 2", "keyword arguments"),
    "nameless keyword arguments": ("kwargs", "{1: 2}", "keyword arguments"),
    "options that are none": ("kwargs", "q_options=3", "q_options"),
    "an unknown type": ("schedule_type", "Z", "Z"),
    "no cron line": ("schedule_type", "C", "cron"),
    "a cron line that never comes": ("cron", "0 0 31 2 *", "never comes"),
    "a cron line that is none": ("cron", "every other day", "malformed"),
}
ON_SQLITE: dict[str, tuple[str, object, str]] = {
    "garbage for a moment": ("next_run", "1 o'clock", "next run"),
    "no text at all": ("next_run", "", "next run"),
    "half a moment": ("next_run", "2026-02-31 00:00:00", "next run"),
    "repeats that are text": ("repeats", "x", "repeats"),
    "minutes that are text": ("minutes", "x", "minutes"),
    "an argument that is no text": ("args", b"\xff", "arguments"),
}
ON_POSTGRESQL: dict[str, tuple[str, object, str]] = {
    "before all time": ("next_run", "-infinity", "next run"),
    "before Christ": ("next_run", "0044-03-15 00:00:00+00 BC", "next run"),
}
BROKEN |= ON_SQLITE if environment.DATABASE == "sqlite" else ON_POSTGRESQL


def broken(column: str, value: object) -> int:
    """A schedule with this in one of its columns."""
    kinds = {"cron": {"schedule_type": Schedule.CRON}, "minutes": {"schedule_type": Schedule.MINUTES}}
    schedule = add("broken", ago=timedelta(hours=2), **kinds.get(column, {}))
    write(schedule, column, value)
    return schedule


@pytest.mark.parametrize(("column", "value", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken__is_left_alone_with_its_reason(
    column: str, value: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = broken(column, value)
    add("good")
    due = scheduler()
    run_all(due)
    due.run()
    run_all(scheduler())  # another process
    assert groups() == ["good"]
    found = state(schedule)
    assert reason in found.problem
    assert found.problem_fingerprint
    assert found.problem_at
    assert (found.anchor, found.computed, found.last_run) == (None, None, None), "as if it had not been looked at"
    (said,) = errors_of(caplog)
    assert said.startswith(f"Schedule {schedule} ('broken') can't be run: ")
    assert reason in said
    assert Schedule._base_manager.filter(pk=schedule).exists()


@pytest.mark.parametrize(("column", "value", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken__runs_once_it_is_mended(column: str, value: object, reason: str) -> None:
    schedule = broken(column, value)
    due = scheduler()
    run_all(due)
    assert state(schedule).problem
    mended = {"next_run": str(timezone.now()), "schedule_type": "H", "cron": "0 * * * *", "repeats": -1, "minutes": 5}
    write(schedule, column, mended.get(column))
    run_all(due)
    assert groups() == ["broken"]
    assert (state(schedule).problem, state(schedule).problem_at) == ("", None)


@selection.on_sqlite
def test_broken__a_row_that_the_driver_can_not_read(caplog: pytest.LogCaptureFixture) -> None:
    """It hides all rows that are read with it."""
    schedule = add("broken")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_q_schedule SET args = CAST(x'ff' AS TEXT) WHERE id = %s", [schedule])
    add("good")
    due = scheduler()
    run_all(due)
    due.run()
    assert groups() == ["good"]
    assert "can't be read" in state(schedule).problem
    assert len(errors_of(caplog)) == 1


def test_broken__an_unknown_zone() -> None:
    schedule = add("on Mars", schedule_type=Schedule.DAILY)
    ScheduleState.objects.create(schedule_id=schedule, zone="Mars/Olympus")
    add("good")
    due = scheduler()
    run_all(due)
    assert groups() == ["good"]
    assert "Mars/Olympus" in state(schedule).problem
    ScheduleState.objects.update(zone="Europe/Berlin")
    run_all(due)
    assert groups() == ["good", "on Mars"]


def test_broken__infinity_is_never(settings: Any) -> None:
    """And hides neither the others nor when they are due."""
    schedule = add("infinite")
    write(schedule, "next_run", "infinity")
    add("soon", next_run=timezone.now() + timedelta(seconds=0.3))
    due = scheduler()
    assert 0 < due.run() <= 0.3
    wait_until(lambda: due.run() == 0.0, what="the other one has run")
    assert groups() == ["soon"]


def test_broken__hundreds_hold_up_nobody() -> None:
    Schedule.objects.bulk_create(
        Schedule(func="f", name="broken", args="x", schedule_type="H", next_run=timezone.now() - timedelta(days=1))
        for _ in range(250)
    )
    add("good")
    run_all()
    assert groups() == ["good"]
    assert ScheduleState.objects.filter(problem__contains="arguments").count() == 250


def test_broken__one_of_a_batch_that_the_database_refuses() -> None:
    """The transaction of the batch fails: each is claimed by itself."""
    schedule = add("refused")
    add("good")
    with refused(schedule):
        run_all()
    assert groups() == ["good"]
    assert "not this one" in state(schedule).problem
    assert next_run(schedule) < timezone.now(), "it is not lost"


@contextmanager
def refused(schedule: int) -> Iterator[None]:
    """A project's trigger that refuses to have this row changed."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"""
                CREATE TRIGGER refuses BEFORE UPDATE ON django_q_schedule WHEN old.id = {schedule}
                BEGIN SELECT raise(ABORT, 'not this one'); END
            """)
        else:
            cursor.execute(f"""
                CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE integrity_constraint_violation USING MESSAGE = 'not this one'; END $$;
                CREATE TRIGGER refuses BEFORE UPDATE ON django_q_schedule FOR EACH ROW WHEN (old.id = {schedule})
                EXECUTE FUNCTION refuses()
            """)
    yield
    with connection.cursor() as cursor:
        cursor.execute(
            "DROP TRIGGER refuses" + ("" if connection.vendor == "sqlite" else " ON django_q_schedule; DROP FUNCTION refuses")
        )


# Receivers.


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), OperationalError("database is locked"), IntegrityError("no"), SystemExit(3), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_receiver__that_raises_for_one(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(task: dict[str, Any]) -> None:
        if task["group"] == "bad":
            raise error

    schedule = add("bad", ago=timedelta(hours=1))
    add("good")
    due = scheduler()
    with receiver(refuse):
        run_all(due)
        due.run()
    assert groups() == ["good"]
    assert type(error).__name__ in state(schedule).problem
    assert len(errors_of(caplog)) == 1


def test_receiver__that_has_raised_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no fault of the row: perhaps its service was down."""
    monkeypatch.setattr(looks, "TRIED_AGAIN", 0.1)

    def refuse(task: dict[str, Any]) -> NoReturn:
        raise ConnectionError("down")

    schedule = add("bad")
    due = scheduler()
    with receiver(refuse):
        run_all(due)
    assert "ConnectionError: down" in state(schedule).problem
    wait_until(lambda: due.run() == 0.0, what="it is tried again")
    assert (groups(), state(schedule).problem) == (["bad"], "")


def test_receiver__that_spoils_the_id() -> None:
    def spoil(task: dict[str, Any]) -> None:
        if task["group"] == "bad":
            task["id"] = "x"

    schedule = add("bad")
    add("good")
    with receiver(spoil):
        run_all()
    assert groups() == ["good"]
    assert "32 hexadecimal digits" in state(schedule).problem


def test_receiver__that_hangs_holds_up_nobody() -> None:
    go_on = threading.Event()
    add("hangs", ago=timedelta(hours=1))
    for number in range(20):
        add(f"good {number}")
    due, began = scheduler(), time.monotonic()
    with receiver(lambda task: task["group"] == "hangs" and go_on.wait(20)):
        assert due.run() == 0.0
        assert time.monotonic() - began < 1.0
        assert len(groups()) == 20
        assert 0 < due.run() <= 0.1, "it looks whether it has ended"
        go_on.set()
        wait_until(lambda: due.run() == 0.0, what="what was aside is claimed")
    assert len(groups()) == 21
    assert "hangs" in groups()


@real
def test_receiver__that_leaves_a_transaction_open() -> None:
    """On a connection of its own: the scheduler's commits."""

    def leave_open(task: dict[str, Any]) -> None:
        connection.set_autocommit(False)
        OrmQ.objects.count()

    add("bad")
    add("good")
    with receiver(leave_open):
        run_all()
    assert groups() == ["bad", "good"]
    assert connection.get_autocommit()


def test_aside__one_that_ends_late_has_its_result_later() -> None:
    go_on = threading.Event()
    asked: list[str] = []

    def do(job: str) -> str:
        asked.append(job)
        return job.upper() if job != "slow" or go_on.wait(20) else ""

    aside: Aside[str, str, str] = Aside(do, goes_on=lambda: None)
    jobs = {"slow": "slow", "quick": "quick"}
    assert aside.do_all(jobs) == {"quick": "QUICK"}
    assert aside.is_busy
    assert aside.do_all({"slow": "slow"}) == {}
    go_on.set()
    wait_until(lambda: not aside.is_busy, what="the slow one has ended")
    assert aside.do_all({"slow": "slow"}) == {"slow": "SLOW"}
    assert asked == ["slow", "quick"], "each is done once"


# Deletions.


@contextmanager
def deletions(receive: Any, signal: Any = pre_delete) -> Iterator[None]:
    """A project's receiver of deleted schedules."""

    def received(instance: Any, **_: object) -> None:
        receive(instance)

    signal.connect(received, sender=Schedule)
    try:
        yield
    finally:
        signal.disconnect(received, sender=Schedule)


def once(name: str) -> int:
    return add(name, schedule_type=Schedule.ONCE)


def test_deletion__is_told() -> None:
    once("told")
    run_all()
    gone: list[str] = []
    with deletions(lambda schedule: gone.append(schedule.name), post_delete):
        Ended(Broker(), Life()).delete()
    assert gone == ["told"]


@real
@pytest.mark.parametrize(
    "error", [ValueError("no"), OperationalError("database is locked"), SystemExit(3)], ids=lambda error: type(error).__name__
)
def test_deletion__that_a_receiver_refuses(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    schedule = once("bad")
    once("good")
    run_all()
    ended = Ended(Broker(), Life())

    def refuse(gone: Any) -> None:
        if gone.name == "bad":
            raise error

    with deletions(refuse):
        ended.delete()
        ended.delete()
    assert list(Schedule.objects.values_list("name", flat=True)) == ["bad"]
    assert type(error).__name__ in state(schedule).problem
    assert len(errors_of(caplog)) == 1
    run_all()
    assert groups() == ["bad", "good"], "each ran once"
    Ended(Broker(), Life()).delete()
    assert not Schedule.objects.exists()


@contextmanager
def reminders(on_delete: Any) -> Iterator[Any]:
    """A table of the project's own, with a foreign key to schedules."""

    class Reminder(models.Model):  # noqa: DJ008 - nobody shows it
        schedule = models.ForeignKey(Schedule, on_delete, related_name="+")

        class Meta:
            app_label = "notifications"

    with connection.schema_editor() as editor:
        editor.create_model(Reminder)
    try:
        yield Reminder
    finally:
        Reminder.objects.all().delete()  # type: ignore[attr-defined]
        with connection.schema_editor() as editor:
            editor.delete_model(Reminder)
        del apps.all_models["notifications"]["reminder"]
        apps.clear_cache()


@real
@pytest.mark.parametrize("on_delete", [models.PROTECT, models.CASCADE, models.DO_NOTHING], ids=lambda each: each.__name__)
def test_deletion__of_one_that_a_foreign_key_names(on_delete: Any, caplog: pytest.LogCaptureFixture) -> None:
    with reminders(on_delete) as reminder:
        named = once("named")
        once("good")
        reminder.objects.create(schedule_id=named)
        run_all()
        ended = Ended(Broker(), Life())
        ended.delete()
        ended.delete()
        add("later")
        run_all()
        ended.delete()
        is_kept = on_delete is not models.CASCADE
        assert sorted(groups()) == ["good", "later", "named"], "each ran once"
        assert Schedule.objects.filter(name="named").exists() == is_kept
        assert not Schedule.objects.filter(name="good").exists()
        assert reminder.objects.count() == is_kept
        assert len(errors_of(caplog)) == is_kept
        assert not is_kept or "Error" in state(named).problem
        reminder.objects.all().delete()
        Ended(Broker(), Life()).delete()
        assert not Schedule.objects.filter(name="named").exists()


@real
def test_deletion__whose_receiver_leaves_a_transaction_open() -> None:
    once("bad")
    run_all()
    with deletions(lambda gone: connection.set_autocommit(True) if connection.in_atomic_block is None else None):
        Ended(Broker(), Life()).delete()
    add("good")
    run_all()
    assert groups() == ["bad", "good"]
    assert connection.get_autocommit()


def test_deletion__at_which_upkeep_was_killed_twice_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    schedule = once("deadly")
    once("good")
    run_all()
    life = Life()
    for _ in range(2):
        die_at(life, f"deletion of schedule {schedule}")
    Ended(Broker(), life).delete()
    Ended(Broker(), Life()).delete()
    assert list(Schedule.objects.values_list("name", flat=True)) == ["deadly"]
    assert "killed twice in a row" in state(schedule).problem
    assert len(errors_of(caplog)) == 1


# Signs of life.


def die_at(life: Life, *at: str) -> None:
    """Upkeep is killed at these; another process begins."""
    for place, what in enumerate(at):
        life._put(place, time.monotonic(), what)
    life.begin()


def test_life__tells_what_stands_still() -> None:
    life, now = Life(), time.monotonic()
    life.begin()
    with life.at("pruning"), life.at("schedule 7"):
        life.tick()
        assert life.stands_still(now + 4, now - 100) is None
        assert life.stands_still(now + 60, now - 100) == "all of it"
        place = [what for _, what in life._places()].index("schedule 7")
        life._put(place, now - 6, "schedule 7")
        assert life.stands_still(time.monotonic(), now - 100) == "schedule 7"
        assert life.stands_still(time.monotonic(), now) is None, "a new process"
    assert life.stands_still(now + 4, now - 100) is None


def test_life__what_it_is_at_within_something_else_takes_its_place() -> None:
    life = Life()
    with life.at("ended schedules"):
        with life.at("deletion of schedule 7"):
            assert [what for since, what in life._places() if since] == ["deletion of schedule 7"]
        assert [what for since, what in life._places() if since] == ["ended schedules"]
    assert [what for since, what in life._places() if since] == []


def test_life__waiting_for_the_database_is_no_standing_still() -> None:
    watch_connections()
    life, seen = Life(), []

    def wait() -> None:
        try:
            with connection.cursor() as cursor, life.at("schedules"):
                if connection.vendor == "sqlite":
                    connection.connection.create_function("look", 0, look)
                    cursor.execute("SELECT look()")
                else:
                    thread = threading.Timer(0.2, look)
                    thread.start()
                    cursor.execute("SELECT pg_sleep(0.4)")
                    thread.join()
                look()
        finally:
            connections.close_all()

    def look() -> int:
        seen.append([what for since, what in life._places() if since])
        return 0

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(20)
    assert seen == [[], ["schedules"]]


def test_life__deaths_in_a_row() -> None:
    life = Life()
    die_at(life, "schedule 7", "pruning")
    assert not life.is_deadly("schedule 7")
    with life.at("pruning"):
        pass  # it went well in between
    die_at(life, "schedule 7", "pruning")
    assert DEADLY == 2
    assert (life.is_deadly("schedule 7"), life.is_deadly("pruning")) == (True, False)
    die_at(life)
    assert life.is_deadly("schedule 7"), "until it is told"
    life.forget("schedule 7")
    die_at(life)
    assert not life.is_deadly("schedule 7")


def test_deadly__a_schedule_is_left_alone_until_it_is_changed(caplog: pytest.LogCaptureFixture) -> None:
    schedule = add("deadly")
    add("good")
    life = Life()
    for _ in range(2):
        die_at(life, f"schedule {schedule}")
    run_all(looks.DueSchedules(Broker(), life))
    run_all(scheduler())
    assert groups() == ["good"]
    assert state(schedule).problem == looks.DEADLY
    assert len(errors_of(caplog)) == 1
    write(schedule, "args", "1")
    run_all(scheduler())
    assert groups() == ["deadly", "good"]


@real
@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), OperationalError("down")], ids=lambda e: type(e).__name__)
def test_lane__goes_on_after_an_error(error: BaseException) -> None:
    done: list[str] = []

    def fail() -> float:
        done.append("bad")
        raise error

    def work() -> float:
        done.append("good")
        return 1.0

    lane = Lane([Duty("bad", fail), Duty("good", work)], "default", Life())
    assert lane.step() > 0.5
    lane.wake()
    lane.step()
    assert done == ["bad", "good", "bad", "good"]


def test_lane__leaves_a_deadly_duty_alone(caplog: pytest.LogCaptureFixture) -> None:
    life, done = Life(), []
    for _ in range(2):
        die_at(life, "pruning", "dead workers")

    def note(what: str) -> float:
        done.append(what)
        return 1.0

    duties = [Duty("pruning", lambda: note("pruning"), can_wait=True), Duty("dead workers", lambda: note("dead workers"))]
    Lane(duties, "default", life).step()
    assert done == ["dead workers"], "which no cluster can do without"
    assert "pruning" in errors_of(caplog)[0]


# Locks of strangers.


@contextmanager
def stranger() -> Iterator[psycopg.Cursor[Any]]:
    """Somebody else, in a transaction."""
    with psycopg.connect(environment.database_url_of_test()) as other, other.cursor() as cursor:
        yield cursor
        other.rollback()


@selection.on_postgresql
@real
@pytest.mark.parametrize("table", ["django_q_schedule", "durable_queue_schedulestate"])
def test_locked__row_is_passed_by(table: str) -> None:
    schedule = add("locked")
    ScheduleState.objects.create(schedule_id=schedule)
    add("good")
    due = scheduler()
    key = "id" if table == "django_q_schedule" else "schedule_id"
    with stranger() as cursor:
        cursor.execute(f"SELECT 1 FROM {table} WHERE {key} = {schedule} FOR UPDATE")  # noqa: S608
        began = time.monotonic()
        run_all(due)
        assert time.monotonic() - began < 1.0
        assert groups() == ["good"]
    run_all(due)
    assert groups() == ["good", "locked"]


@selection.on_postgresql
@real
def test_locked__problems_wait_for_the_next_look() -> None:
    schedule = broken("args", "x")
    ScheduleState.objects.create(schedule_id=schedule)
    due = scheduler()
    with stranger() as cursor:
        cursor.execute("SELECT 1 FROM durable_queue_schedulestate FOR UPDATE")
        run_all(due)
    assert not state(schedule).problem
    due.run()
    assert "arguments" in state(schedule).problem


@selection.on_postgresql
@real
def test_locked__a_table_is_waited_for_with_a_bound() -> None:
    add("due")
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = 0")  # as in a project that sets none
    try:
        with stranger() as cursor:
            cursor.execute("LOCK TABLE django_q_ormq IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            assert scheduler().run() > 0
            assert 1.5 < time.monotonic() - began < 15
        run_all()
        assert groups() == ["due"]
    finally:
        connection.close()


@selection.on_sqlite
@real
def test_locked__sqlite_is_held_for_a_moment_only() -> None:
    """Others write while a receiver takes its time."""
    add("slow")
    writes = []

    def take_time(task: dict[str, Any]) -> None:
        Broker().enqueue_all(["a POST"])
        writes.append(task["group"])

    with receiver(take_time):
        run_all()
    assert writes == ["slow"]
    assert OrmQ.objects.filter(payload="a POST").exists()


def test_lost__connection_is_no_schedules_fault() -> None:
    schedules = Schedules(Broker())
    assert not schedules.is_lost()
    assert not schedules.concerns_all(IntegrityError("no"))
    assert schedules.concerns_all(OperationalError("locked")) == (connection.vendor == "sqlite")


# Real processes.

QUICK = timedelta(seconds=1)


def mark_schedule(name: str, **fields: Any) -> int:
    return add(name, func="tests.support.promised_tasks.add", args="1", schedule_type="I", minutes=1, **fields)


@contextmanager
def bad_cluster(folder: Path) -> Iterator[Path]:
    """A cluster with receivers that are bad for some schedules; gives its output."""
    own = {"DATABASE_URL": environment.database_url_of_test(), "DJANGO_SETTINGS_MODULE": "tests.support.schedule_settings"}
    output = folder / "output"
    with queue_workers(env=own, output=output) as process:
        wait_until(lambda: Worker.objects.count() >= 1, what="the workers work")
        yield output
        assert process.poll() is None


@real
@pytest.mark.parametrize("name", selection.slow_after(2, ["kills", "hangs", "hangs in C"]))
def test_upkeep__a_schedule_that_stops_it_is_named_and_left_alone(tmp_path: Path, name: str) -> None:
    schedule = mark_schedule(name)
    with bad_cluster(tmp_path) as output:
        late: list[float] = []
        beats: list[float] = []

        def is_named() -> bool:
            due = timezone.now()
            good = mark_schedule("good", ago=timedelta())
            wait_until(lambda: next_run(good) > due + QUICK, what="a good one runs")
            late.append((timezone.now() - due).total_seconds())
            beats.append((timezone.now() - Worker.objects.get().heartbeat).total_seconds())
            return ScheduleState.objects.filter(pk=schedule).exclude(problem="").exists()

        wait_until(is_named, timeout=30, what="it is named")
        assert state(schedule).problem == looks.DEADLY
        said = output.read_text()
        assert len(re.findall(f"Schedule {schedule} .*killed at it twice in a row", said)) == 1
        assert max(beats) < 9
        if name == "hangs":
            assert max(late) < 2.5, "it is set aside"
            assert said.count("stands still, and is replaced: schedule") == 2
        died = said.count("The upkeep process died")
        time.sleep(1.0)
        assert output.read_text().count("The upkeep process died") == died == 2


@selection.slow
@real
def test_upkeep__a_deletion_that_hangs(tmp_path: Path) -> None:
    schedule = once("hangs in its deletion")
    with bad_cluster(tmp_path) as output:
        wait_until(
            lambda: ScheduleState.objects.filter(pk=schedule, problem__contains="killed twice").exists(),
            timeout=40,
            what="it is named",
        )
        good = mark_schedule("good")
        wait_until(lambda: next_run(good) > timezone.now(), what="a good one runs")
        assert output.read_text().count(f"replaced: deletion of schedule {schedule}") == 2
    assert Schedule.objects.filter(pk=schedule).exists()


# Found by a second reading.


@real
@pytest.mark.parametrize("change", ["ran", "moved", "paused"])
def test_read__leaves_out_what_is_no_longer_due(change: str) -> None:
    """The ids are listed once; others may run, move or pause a schedule before its batch comes."""
    schedule, schedules = add("late"), Schedules(Broker())
    now = schedules.now()
    listed = schedules.due(now)
    if change == "paused":
        ScheduleState.objects.create(schedule_id=schedule, paused_at=timezone.now())
    else:
        write(schedule, "next_run", schedules._table.moment(now + timedelta(days=1)))
    assert schedules.read(listed)
    assert schedules.read(listed, due_at=now) == []


@selection.on_sqlite
def test_broken__by_an_offset_that_leads_out_of_time() -> None:
    schedule = add("broken", ago=timedelta(hours=2))
    write(schedule, "next_run", "0001-01-01 00:00:00+05:00")
    add("good")
    run_all()
    assert groups() == ["good"]
    assert "next run" in state(schedule).problem


@real
def test_receiver__that_leaves_a_block_open_breaks_no_neighbour(caplog: pytest.LogCaptureFixture) -> None:
    def leave_open(task: dict[str, Any]) -> None:
        if task["group"] == "a":
            transaction.atomic().__enter__()

    for name in "abcd":
        add(name)
    with receiver(leave_open):
        run_all()
    assert set("bcd") <= set(groups())
    assert not any("ProgrammingError" in said for said in errors_of(caplog))


@real
def test_lane__goes_on_after_a_block_that_was_left_open() -> None:
    """Its thread's connection would stay unusable for good."""
    done: list[int] = []

    def leave_open() -> float:
        transaction.atomic().__enter__()
        raise ValueError("as always")

    def query() -> float:
        done.append(Schedule.objects.count())
        return 60.0

    lane = Lane([Duty("bad", leave_open), Duty("good", query)], using="default", life=Life())

    def step() -> None:
        lane.step()
        connections.close_all()

    thread = threading.Thread(target=step)  # with connections of its own
    thread.start()
    thread.join()
    assert done == [0]


def test_ended__one_that_another_cluster_has_deleted() -> None:
    Ended(Broker(), Life())._delete(4711)
