"""What happens when a schedule is saved, by `schedule()`, `save()` and what else writes rows."""

import enum
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Schedule
from django_q.scheduler import scheduler
from django_q.tasks import schedule
from pytest_django import Settings

from durable_queue.models import ScheduleState
from durable_queue.schedule.pausing import pause, resume
from durable_queue.store.broker import Broker
from tests.support.scheduling import run_all, tasks

pytestmark = pytest.mark.django_db

WRITE = "notifications.tasks.write_log"
PAST = datetime(2020, 1, 31, 7, 0, tzinfo=UTC)


class Colour(enum.IntEnum):
    """Its members are written as no literal."""

    RED = 1


class Money:
    """What is written as a literal, and isn't equal to it."""

    def __repr__(self) -> str:
        return "3"


def later(**time: float) -> datetime:
    return timezone.now().replace(microsecond=0) + timedelta(**time)


def make(**fields: Any) -> Any:
    """A schedule as code saves it."""
    return Schedule.objects.create(
        **{"func": WRITE, "args": "'hello'", "schedule_type": "D", "next_run": later(days=1)} | fields
    )


def written(**fields: Any) -> Any:
    """A schedule that nobody has checked."""
    (row,) = Schedule.objects.bulk_create(
        [Schedule(**{"func": WRITE, "schedule_type": "D", "next_run": later(days=1)} | fields)]
    )
    return Schedule.objects.get(pk=row.pk)


# What can never be computed.


@pytest.mark.parametrize(
    "value",
    [
        Decimal("3"),
        date(2026, 1, 1),
        datetime(2026, 1, 1, tzinfo=UTC),
        uuid.UUID(int=1),
        Colour.RED,
        Money(),
        float("nan"),
        frozenset({1}),
        range(3),
        10**5000,
        [Decimal("3")],
    ],
    ids=lambda value: type(value).__name__,
)
def test_schedule__an_argument_that_is_no_literal_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="have the function convert it") as positional:
        schedule("math.hypot", value, 4)
    assert list(positional.value.message_dict) == ["args"]
    with pytest.raises(ValidationError, match="Argument when") as named:
        schedule(WRITE, when=value)
    assert list(named.value.message_dict) == ["kwargs"]
    with pytest.raises(ValidationError):
        make(args=(value,))
    with pytest.raises(ValidationError):
        make(kwargs={"when": value})
    assert not Schedule.objects.exists()


def test_schedule__arguments_that_are_literals() -> None:
    given: tuple[object, ...] = (1, -2.5, "it's", b"\0", None, True, ["a", {"b": (1,)}], {1, 2}, 3 + 4j, set())
    made = schedule(WRITE, *given, name="literals", q_options={"group": "friends"}, x="'")
    assert Schedule.objects.get(pk=made.pk).args == str(given)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("args", "hello"),
        ("args", "print('run')"),
        ("args", "1,, 2"),
        ("args", "(" * 300),
        ("args", "-" * 100_000 + "1"),
        ("kwargs", "hello"),
        ("kwargs", "1, 2"),
        ("kwargs", "{1: 2}"),
        ("kwargs", "x=y"),
        ("kwargs", "**{}"),
        ("kwargs", "x=1), g(y=2"),
        ("kwargs", "q_options=1"),
    ],
    ids=lambda value: value[:12],
)
def test_save__text_that_is_no_literal_is_refused(field: str, text: str) -> None:
    with pytest.raises(ValidationError, match="text in quotes") as caught:
        make(**{field: text})
    assert list(caught.value.message_dict) == [field]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"schedule_type": "C", "cron": "0 0 31 2 *"}, "cron"),
        ({"schedule_type": "C", "cron": "every other day"}, "cron"),
        ({"schedule_type": "C", "cron": None}, "cron"),
        ({"schedule_type": "C", "cron": ""}, "cron"),
        ({"schedule_type": "C", "cron": "0 0 1 1 * 0 2020"}, "cron"),
        ({"schedule_type": "C", "cron": " ".join(["0", ",".join("1" for _ in range(60)), "* * *"])}, "cron"),
        ({"schedule_type": "X"}, "schedule_type"),
        ({"schedule_type": ""}, "schedule_type"),
        ({"schedule_type": "I", "minutes": -1}, "minutes"),
    ],
    ids=str,
)
def test_save__a_rule_that_never_comes_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as saved:
        make(**fields)
    with pytest.raises(ValidationError) as scheduled:
        schedule(WRITE, **fields)
    assert [list(caught.value.message_dict) for caught in (saved, scheduled)] == [[field]] * 2
    assert not Schedule.objects.exists()


def test_save__of_a_cron_line_near_the_end_of_time() -> None:
    with pytest.raises(ValidationError, match="write an earlier moment"):
        make(schedule_type="C", cron="0 0 1 1 *", next_run=datetime(9999, 12, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ({"args": "hello"}, {"args": "'hello'"}),
        ({"kwargs": "x=y"}, {"kwargs": "x=1"}),
        ({"schedule_type": "C", "cron": "0 0 31 2 *"}, {"cron": "0 0 30 1 *"}),
        ({"schedule_type": "C", "cron": None}, {"schedule_type": "H"}),
        ({"schedule_type": "X"}, {"schedule_type": "H"}),
    ],
    ids=str,
)
def test_save__a_broken_one_can_be_renamed_and_mended_and_deleted(broken: dict[str, Any], mended: dict[str, Any]) -> None:
    row = written(**broken)
    row.name = "broken"
    row.full_clean()
    row.save()
    row.save(update_fields=["name"])
    assert Schedule.objects.get().name == "broken"
    assert Schedule.objects.filter(**{name: value for name, value in broken.items() if value is not None}).exists()
    for name, value in mended.items():
        setattr(row, name, value)
    row.full_clean()
    row.save()
    for name, value in broken.items():
        setattr(row, name, value)
    with pytest.raises(ValidationError):
        row.save()
    row.delete()
    assert not Schedule.objects.exists()


def test_save__what_may_work_later_is_marked() -> None:
    """The web may know a function a minute before the workers do, or a minute later."""
    import_module("notifications.tasks")
    made = make(func="notifications.tasks.no_such_function")
    assert "no_such_function" in ScheduleState.objects.get().problem
    made.func = WRITE
    made.save()
    assert ScheduleState.objects.get().problem == ""
    made.hook = "no_such_module.hook"
    made.save()
    assert "no_such_module" in ScheduleState.objects.get().problem
    made.hook = None
    made.kwargs = "no_such_argument=1"
    made.save()
    assert "no_such_argument" in ScheduleState.objects.get().problem


def test_save__of_what_is_unknown_imports_nothing() -> None:
    make(func="tests.support.raises_on_import.anything")
    make(func="a b.c\x01.d")
    make(func="json")
    assert sorted(ScheduleState.objects.values_list("problem", flat=True)) == [
        "There is no function a b.c\x01.d.",
        "There is no function json.",
    ]


@pytest.mark.parametrize("minutes", [None, 0, "5", 5.0])
def test_save__minutes(minutes: Any) -> None:
    made = Schedule.objects.get(pk=make(schedule_type="I", minutes=minutes, next_run=PAST).pk)
    assert made.calculate_next_run(PAST) == PAST + timedelta(minutes=int(minutes or 1))


# When a cron schedule runs first.


def test_cron__a_new_one_begins_at_the_given_moment() -> None:
    given = later(days=400).replace(hour=12)
    assert make(schedule_type="C", cron="30 7 * * *", next_run=given).next_run == (given + timedelta(days=1)).replace(
        hour=7, minute=30, second=0
    )
    assert make(schedule_type="C", cron="0 12 * * *", next_run=given.replace(minute=0, second=0)).next_run == given.replace(
        minute=0, second=0
    )
    made = schedule(WRITE, "x", schedule_type="C", cron="0 0 * * *", next_run=str(given.date()))
    assert Schedule.objects.get(pk=made.pk).next_run.date() == given.date()


@pytest.mark.parametrize("given", [PAST, None, "2020-01-01 00:00"], ids=str)
def test_cron__a_new_one_begins_now(given: Any) -> None:
    made = make(schedule_type="C", cron="*/5 * * * *", next_run=given)
    assert timezone.now() < Schedule.objects.get(pk=made.pk).next_run <= later(minutes=5)


def test_cron__a_changed_one_begins_now_or_at_the_given_moment() -> None:
    made = make(schedule_type="C", cron="0 0 1 1 *")
    made.cron = "*/5 * * * *"
    made.save(update_fields=["cron"])
    assert Schedule.objects.get().next_run <= later(minutes=5)
    made = Schedule.objects.get()
    made.cron, made.next_run = "0 0 1 * *", later(days=400)
    made.save()
    assert Schedule.objects.get().next_run > later(days=400)
    made = Schedule.objects.get()
    made.schedule_type, made.cron = "H", None
    made.save()
    assert Schedule.objects.get().next_run > later(days=400), "only a cron line says when it begins"


def test_cron__follows_the_clock_of_its_zone(settings: Settings) -> None:
    settings.NOTIFIER_TIME_ZONE = "Asia/Tokyo"
    assert make(schedule_type="C", cron="0 7 * * *").next_run.hour == 22
    own = Schedule(func=WRITE, schedule_type="C", cron="0 7 * * *")
    own.zone = "Asia/Kolkata"
    own.save()
    assert (own.next_run.hour, own.next_run.minute) == (1, 30)
    own.zone = "UTC"
    own.save()
    assert (own.next_run.hour, ScheduleState.objects.get().zone) == (7, "UTC")
    own.zone = "Europe/Nowhere"
    with pytest.raises(ValidationError, match="no time zone"):
        own.save()


# What a run has changed meanwhile.


def run_meanwhile(pk: int, **changes: Any) -> None:
    """What a run does to the row."""
    assert Schedule.objects.filter(pk=pk).update(**{"next_run": later(days=7), "repeats": 2, "task": "b" * 32} | changes) == 1


def test_save__a_stale_copy_puts_nothing_back() -> None:
    old = Schedule.objects.get(pk=make(repeats=3).pk)
    run_meanwhile(old.pk)
    old.name = "renamed"
    old.save()
    row = Schedule.objects.get()
    assert (row.name, row.repeats, row.task) == ("renamed", 2, "b" * 32)
    assert row.next_run > later(days=6)
    assert old.next_run == row.next_run


def test_save__a_stale_copy_that_was_read_again_or_saved_before() -> None:
    old = make(repeats=5)
    run_meanwhile(old.pk, repeats=4)
    old.refresh_from_db()
    run_meanwhile(old.pk, repeats=3, next_run=later(days=14))
    old.save()
    assert (Schedule.objects.get().repeats, Schedule.objects.get().next_run > later(days=13)) == (3, True)
    run_meanwhile(old.pk, repeats=2, next_run=later(days=21))
    old.refresh_from_db(fields=["repeats"])
    old.save()
    assert (Schedule.objects.get().repeats, Schedule.objects.get().next_run > later(days=20)) == (2, True)


def test_save__again_after_a_rollback_or_of_other_fields() -> None:
    """What somebody has set stays a change until it stands in the row."""
    made, moved = make(repeats=3), later(days=30)
    made.next_run, made.repeats = moved, 9
    with transaction.atomic():
        made.save()
        transaction.set_rollback(True)
    made.save(update_fields=["name"])
    assert Schedule.objects.get().repeats == 3
    made.save()
    assert (Schedule.objects.get().next_run, Schedule.objects.get().repeats) == (moved, 9)


def test_save__a_move_to_a_moment_that_was_run_is_a_move() -> None:
    """Somebody has it run once more, and a copy of the row that is stale says the same moment."""
    made = make()
    ran, following = made.next_run, later(days=7)
    ScheduleState.objects.create(schedule=made, anchor=ran, computed=following, last_run=ran, zone="Asia/Tokyo")
    run_meanwhile(made.pk, next_run=following)
    made = Schedule.objects.get()
    made.next_run = ran
    made.save()
    state = ScheduleState.objects.get()
    assert Schedule.objects.get().next_run == ran
    assert (state.anchor, state.computed, state.last_run, state.zone) == (None, None, None, "Asia/Tokyo")


def test_save__without_a_move_keeps_the_anchor() -> None:
    made = make(schedule_type="M", next_run=PAST)
    ScheduleState.objects.create(schedule=made, anchor=PAST, computed=made.next_run, last_run=None)
    made.name, made.func = "renamed", "notifications.tasks.write_notification"
    made.save()
    assert ScheduleState.objects.get().anchor == PAST
    made.schedule_type = "W"
    made.save()
    assert ScheduleState.objects.get().anchor is None, "an edited rule counts from the next run on"


@pytest.mark.django_db(transaction=True)
def test_run__not_again_by_a_stale_copy_but_by_a_move() -> None:
    made = make(next_run=PAST)
    run_all()
    made.name = "renamed"
    made.save()
    run_all()
    assert [task["group"] for task in tasks()] == [made.pk]
    made.next_run = PAST
    made.save()
    run_all()
    assert [task["group"] for task in tasks()] == [made.pk, "renamed"]


@pytest.mark.django_db(transaction=True)
def test_run__after_a_pause() -> None:
    """What was missed meanwhile is not made up for, and the day of the month is kept."""
    made = make(schedule_type="M", next_run=PAST)
    assert pause([made.pk], by="alice", using="default") == 1
    run_all()
    assert resume([made.pk], by="bob", using="default") == 1
    run_all()
    assert tasks() == []
    assert Schedule.objects.get().next_run > timezone.now()
    assert ScheduleState.objects.get().anchor == PAST


def test_save__only_some_fields_were_loaded() -> None:
    made = make()
    some = Schedule.objects.only("name").get(pk=made.pk)
    some.name = "renamed"
    run_meanwhile(made.pk)
    some.save()
    assert (Schedule.objects.get().name, Schedule.objects.get().repeats) == ("renamed", 2)


def test_save__of_a_copy_whose_only_run_has_deleted_the_row() -> None:
    made = make(schedule_type="O", next_run=PAST)
    Schedule.objects.filter(pk=made.pk).delete()
    with pytest.raises(Schedule.DoesNotExist, match="set pk to None"):
        made.save()
    made.pk = None
    made.save()
    assert Schedule.objects.get().next_run == PAST


def test_save__as_update_or_create_does() -> None:
    for cron in ("0 0 1 1 *", "*/5 * * * *"):
        Schedule.objects.update_or_create(name="one", defaults={"func": WRITE, "schedule_type": "C", "cron": cron})
    assert Schedule.objects.get().next_run <= later(minutes=5)
    with pytest.raises(ValidationError):
        Schedule.objects.update_or_create(name="one", defaults={"cron": "0 0 31 2 *"})
    with pytest.raises(ValueError, match="no_such_field"):
        Schedule.objects.get().save(update_fields=["no_such_field"])


def test_save__a_copy_is_a_new_one() -> None:
    made = make(repeats=3, name="first")
    run_meanwhile(made.pk)
    made.pk = None
    made.name = "second"
    made.save()
    assert sorted(Schedule.objects.values_list("name", "repeats")) == [("first", 2), ("second", 3)]
    made.args = "hello"
    with pytest.raises(ValidationError):
        made.save()


# What else writes rows, and django-q2's own scheduler.


def test_save__before_our_migration() -> None:
    with transaction.atomic():  # at whose end the table is back
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE {ScheduleState._meta.db_table}")
        made = schedule(WRITE, "hello", schedule_type="C", cron="0 7 * * *")
        made.name = "renamed"
        made.save()
        made.func = "no_such_module.function"
        made.save()
        assert made.calculate_next_run() > timezone.now()
        assert Schedule.objects.get().func == "no_such_module.function"
        transaction.set_rollback(True)
    assert not ScheduleState.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_own_scheduler__keeps_the_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 31 January a monthly one comes to 31 March again, by way of February."""
    monkeypatch.setattr(Conf, "CATCH_UP", True)
    made = make(schedule_type="M", next_run=PAST)
    for expected in (datetime(2020, 2, 29, 7, 0, tzinfo=UTC), datetime(2020, 3, 31, 7, 0, tzinfo=UTC)):
        scheduler(broker=Broker())
        assert Schedule.objects.get(pk=made.pk).next_run == expected


@pytest.mark.django_db(transaction=True)
def test_own_scheduler__after_years(django_assert_max_num_queries: Any) -> None:
    make(schedule_type="H", next_run=PAST, args="'x'")
    with django_assert_max_num_queries(40):
        scheduler(broker=Broker())
    assert timezone.now() < Schedule.objects.get().next_run <= later(hours=1, seconds=1)


def test_next_run__of_what_never_comes_again() -> None:
    """django-q2's own scheduler can't do without."""
    row = written(schedule_type="C", cron="0 0 1 1 * 0 2020", next_run=PAST)
    assert row.calculate_next_run().year == 9999


def test_rows__that_were_not_saved_have_the_defaults() -> None:
    row = written(schedule_type="M", next_run=PAST)
    assert not ScheduleState.objects.exists()
    assert row.calculate_next_run() == datetime(2020, 2, 29, 7, 0, tzinfo=UTC)
