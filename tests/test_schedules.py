"""The admin's page of scheduled tasks.

Tests of what becomes of them need real transactions: the scheduler closes the connection that it finds.
"""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.models.signals import pre_save
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.scheduler import scheduler
from pytest_django import Settings

from durable_queue.admin import queue
from durable_queue.admin.schedules import ScheduleAdmin
from durable_queue.models import ScheduleState
from durable_queue.schedule.due import fingerprint
from durable_queue.store.broker import Broker
from tests.support import selection
from tests.support.admin_site import act, page, settle, staff
from tests.support.environment import DATABASE
from tests.support.queue_rows import worker

pytestmark = [pytest.mark.django_db, selection.slow_on_postgresql]

WRITE = "notifications.tasks.write_log"
PAST = datetime(2020, 1, 31, 7, 0, tzinfo=UTC)


def schedule_form(**fields: str) -> dict[str, str]:
    """The form for a new schedule, filled in."""
    form = {"func": "notifications.tasks.write_log", "args": r"'hello\n'", "schedule_type": "H", "repeats": "-1"}
    return form | {"next_run_0": "2026-01-01", "next_run_1": "00:00:00"} | fields


@pytest.mark.django_db(transaction=True)
def test_schedule__made_in_the_admin_is_queued(admin_client: Client) -> None:
    admin_client.post(reverse("admin:django_q_schedule_add"), schedule_form(name="greeting"))
    scheduler(broker=Broker())
    row = queue.preview(OrmQ.objects.get())
    assert (row.func, row.args) == ("notifications.tasks.write_log", ("hello\n",))
    assert Schedule.objects.get().next_run > timezone.now()


@pytest.mark.django_db(transaction=True)
def test_schedule__shows_its_last_run(admin_client: Client) -> None:
    Schedule.objects.create(func="notifications.tasks.write_log", args="'hello'", schedule_type="H", next_run=timezone.now())
    scheduler(broker=Broker())
    task_id = queue.preview(OrmQ.objects.get()).id
    settle()
    assert reverse("admin:django_q_success_change", args=[task_id]) in page(admin_client, "django_q_schedule_changelist")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("func", "notifications.tasks.no_such_function"),
        ("func", "tests.support.raises_on_import.anything"),
        ("args", "hello"),
        ("args", "print('run')"),
        ("kwargs", "1, 2"),
        ("kwargs", "x=y"),
        ("kwargs", "**{}"),
        ("cluster", "elsewhere"),
        ("intended_date_kwarg", "not a name"),
        ("cron", "every other day"),
    ],
)
def test_schedule__what_the_scheduler_would_trip_over_is_refused(admin_client: Client, field: str, value: str) -> None:
    response = admin_client.post(reverse("admin:django_q_schedule_add"), schedule_form(**{field: value}))
    assert response.status_code == 200
    assert list(response.context["adminform"].form.errors) == [field]
    assert not Schedule.objects.exists()


def test_schedule__of_a_function_that_has_moved(admin_client: Client) -> None:
    """A schedule of an old version may be edited: its function is found."""
    admin_client.post(reverse("admin:django_q_schedule_add"), schedule_form(func="notifications.background.run_in_order"))
    assert Schedule.objects.get().func == "notifications.background.run_in_order"


def test_schedule__cron_without_a_time_is_refused(admin_client: Client) -> None:
    response = admin_client.post(reverse("admin:django_q_schedule_add"), schedule_form(schedule_type="C"))
    assert list(response.context["adminform"].form.errors) == ["cron"]


@selection.once
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"schedule_type": "C", "cron": "0 0 31 2 *"}, "cron"),
        ({"schedule_type": "C", "cron": "0 0 1 1 * 0 2020"}, "cron"),
        ({"schedule_type": "C", "cron": "0 0 1 1 *", "next_run_0": "9999-12-30"}, "next_run"),
        ({"schedule_type": "I"}, "minutes"),
        ({"schedule_type": "I", "minutes": "0"}, "minutes"),
        ({"schedule_type": "X"}, "schedule_type"),
        ({"hook": "notifications.tasks.no_such_hook"}, "hook"),
        ({"args": ""}, "args"),
        ({"args": "1, 2, 3, 4, 5"}, "args"),
        ({"kwargs": "no_such_argument=1"}, "args"),
        ({"zone": "Europe/Nowhere"}, "zone"),
        ({"next_run_0": "", "next_run_1": ""}, "next_run"),
        ({"next_run_0": "0000-01-01"}, "next_run"),
    ],
    ids=str,
)
def test_schedule__what_could_not_run_is_refused(admin_client: Client, fields: dict[str, str], field: str) -> None:
    response = admin_client.post(reverse("admin:django_q_schedule_add"), schedule_form(**fields))
    assert response.status_code == 200
    errors = response.context["adminform"].form.errors
    assert list(errors) == [field]
    assert len(errors[field]) == 1
    assert not Schedule.objects.exists()


def test_schedule__cron(admin_client: Client) -> None:
    admin_client.post(reverse("admin:django_q_schedule_add"), schedule_form(schedule_type="C", cron="30 7 * * *"))
    assert (Schedule.objects.get().next_run.hour, Schedule.objects.get().next_run.minute) == (7, 30)


# Editing.


def edit(client: Client, pk: int, **fields: str) -> Any:
    """Open the page of a schedule, change some fields, and save."""
    return send(client, pk, opened(client, pk) | fields)


def opened(client: Client, pk: int) -> dict[str, str]:
    """What a browser would send of the page of a schedule."""
    form = client.get(reverse("admin:django_q_schedule_change", args=[pk])).context["adminform"].form
    sent: dict[str, str] = {}
    for bound in form:
        html = bound.as_widget() + (bound.as_hidden(only_initial=True) if bound.field.show_hidden_initial else "")
        sent |= dict(re.findall(r'<input[^>]* name="([^"]+)" value="([^"]*)"', html))
        for name, inside in re.findall(r'<textarea[^>]* name="([^"]+)"[^>]*>\n?(.*?)</textarea>', html, re.DOTALL):
            sent[name] = inside
        for name, inside in re.findall(r'<select[^>]* name="([^"]+)"[^>]*>(.*?)</select>', html, re.DOTALL):
            sent[name] = (re.findall(r'value="([^"]*)" selected', inside) or [""])[0]
    return {name: unescape(value) for name, value in sent.items()}


def send(client: Client, pk: int, fields: dict[str, str]) -> Any:
    """Save the page of a schedule."""
    return client.post(reverse("admin:django_q_schedule_change", args=[pk]), fields, follow=True)


def row(**fields: Any) -> Any:
    """A schedule that nobody has checked."""
    given = {"func": WRITE, "args": "'hello'", "schedule_type": "D", "next_run": timezone.now() + timedelta(days=1)}
    return Schedule.objects.bulk_create([Schedule(**given | fields)])[0]


BROKEN: dict[str, dict[str, Any]] = {
    "args": {"args": "hello"},
    "kwargs": {"kwargs": "x=y"},
    "cron that never comes": {"schedule_type": "C", "cron": "0 0 31 2 *"},
    "cron that is none": {"schedule_type": "C", "cron": "every other day"},
    "cron that is missing": {"schedule_type": "C"},
    "unknown type": {"schedule_type": "X"},
    "no type": {"schedule_type": ""},
    "minutes": {"schedule_type": "I", "minutes": 0},
    "unknown function": {"func": "no_such_module.function", "hook": "no_such_module.hook"},
    "no function": {"func": ""},
    "arguments that don't fit": {"args": "1, 2, 3, 4"},
    "cluster": {"cluster": "nope"},
    "name of an argument": {"intended_date_kwarg": "not a name"},
    "never": {"next_run": None},
    "over": {"schedule_type": "C", "cron": "0 0 1 1 * 0 2020"},
    "repeats": {"repeats": -7},
    "texts": {"name": "\u202e\x07<b>", "func": "a b\x01", "args": "\t;", "schedule_type": "\x7f", "cron": "\x01"},
}
AT_THE_ENDS = ["0001-01-01 00:00:00", "9999-12-31 23:59:00"]  # a clock of another zone can't show these
MOMENTS = {
    "sqlite": [
        *AT_THE_ENDS,
        "infinity",
        "garbage",
        "2026-13-45 00:00:00",
        "-0044-03-15 00:00:00",
        "",
        "2026-01-01T00:00:00+25:00",
    ],
    "postgresql": [*AT_THE_ENDS, "infinity", "-infinity", "0044-03-15 00:00:00 BC", "20000-01-01 00:00:00"],
}


@selection.once
@pytest.mark.parametrize("fields", selection.slow_after(3, list(BROKEN.values())))
def test_page__shows_a_broken_one_which_can_be_renamed_and_deleted(admin_client: Client, fields: dict[str, Any]) -> None:
    pk = row(**fields).pk
    before = Schedule.objects.values().get()
    page(admin_client, "django_q_schedule_changelist")
    response = edit(admin_client, pk, name="renamed")
    assert "adminform" not in response.context or not response.context["adminform"].form.errors
    after = Schedule.objects.values().get()
    assert after == before | {"name": "renamed"}
    page(admin_client, "django_q_schedule_delete", pk)
    act(admin_client, "django_q_schedule", "delete_selected", [pk], post="yes")
    assert not Schedule.objects.exists()


@pytest.mark.parametrize("text", selection.slow_after(2, MOMENTS[DATABASE]))
def test_page__of_a_moment_that_python_has_not(admin_client: Client, text: str) -> None:
    other, pk = row(name="the other one").pk, row(name="infinite").pk
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_q_schedule SET next_run = %s WHERE id = %s", [text, pk])
    ScheduleState.objects.create(schedule_id=pk, problem="Its next run is no moment", problem_fingerprint="x")
    html = page(admin_client, "django_q_schedule_changelist")
    assert "the other one" in html
    assert "can&#x27;t be read" in html or not text
    edit(admin_client, pk, name="renamed")
    act(admin_client, "django_q_schedule", "pause", [pk, other])
    act(admin_client, "django_q_schedule", "resume", [pk, other])
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, CAST(next_run AS TEXT) FROM django_q_schedule WHERE id = %s", [pk])
        name, kept = cursor.fetchone()
    assert (name, kept.removesuffix("+00")) in [("renamed", text), ("renamed", text.replace(" BC", "+00 BC"))]
    later = timezone.now().replace(microsecond=0) + timedelta(days=1)
    edit(admin_client, pk, next_run_0=f"{later:%Y-%m-%d}", next_run_1=f"{later:%H:%M:%S}")
    assert Schedule.objects.get(pk=pk).next_run == later
    page(admin_client, "django_q_schedule_delete", pk)


@selection.on_sqlite  # whose columns hold anything
@pytest.mark.parametrize("kind", selection.slow_after(1, ["I", "C", "D"]))
@pytest.mark.parametrize("value", ["abc", b"\xff", 10**18, -1.5], ids=repr)
def test_page__of_garbage(admin_client: Client, kind: str, value: str | bytes | float) -> None:
    pk = row(schedule_type=kind).pk
    columns = ("name", "args", "kwargs", "minutes", "repeats", "cron", "task", "hook")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA ignore_check_constraints = on")
        for column in columns:
            cursor.execute(f"UPDATE django_q_schedule SET {column} = %s WHERE id = %s", [value, pk])  # noqa: S608
        cursor.execute("PRAGMA ignore_check_constraints = off")
    page(admin_client, "django_q_schedule_changelist")
    page(admin_client, "django_q_schedule_change", pk)
    page(staff("view_schedule"), "django_q_schedule_change", pk)
    act(admin_client, "django_q_schedule", "pause", [pk])
    act(admin_client, "django_q_schedule", "resume", [pk])
    act(admin_client, "django_q_schedule", "delete_selected", [pk], post="yes")
    assert not Schedule.objects.exists()


def test_page__an_hour_old_puts_nothing_back(admin_client: Client) -> None:
    pk = row(repeats=3).pk
    sent = opened(admin_client, pk)
    following = timezone.now() + timedelta(days=7)
    Schedule.objects.update(next_run=following, repeats=2, task="b" * 32)
    send(admin_client, pk, sent | {"name": "renamed"})
    assert Schedule.objects.values_list("name", "next_run", "repeats", "task").get() == ("renamed", following, 2, "b" * 32)
    send(admin_client, pk, sent | {"repeats": "9"})
    assert Schedule.objects.values_list("next_run", "repeats").get() == (following, 9)


def test_page__an_hour_old_puts_nothing_of_others_back(admin_client: Client) -> None:
    pk = row(name="before", args="'a'", kwargs="", minutes=3).pk
    sent = opened(admin_client, pk)
    others = {"func": "math.hypot", "args": "3, 4", "hook": "math.sqrt", "schedule_type": "I", "minutes": 5, "cluster": None}
    Schedule.objects.update(**others)
    ScheduleState.objects.update_or_create(schedule_id=pk, defaults={"zone": "Asia/Tokyo"})
    assert "adminform" not in (send(admin_client, pk, sent | {"name": "renamed"}).context or {})
    assert Schedule.objects.values("name", *others).get() == others | {"name": "renamed"}
    assert ScheduleState.objects.get().zone == "Asia/Tokyo"


@pytest.mark.parametrize("pk", [True, False], ids=["changed", "new"])
def test_page__what_only_saving_refuses_is_said(admin_client: Client, *, pk: bool) -> None:
    """By a receiver of the project's own, or since somebody else has changed the row in between."""

    def refuse(**_: object) -> None:
        raise ValidationError({"func": "Not on Sundays."})

    there = row().pk
    url = reverse("admin:django_q_schedule_change", args=[there]) if pk else reverse("admin:django_q_schedule_add")
    sent = opened(admin_client, there) | {"name": "renamed"} if pk else schedule_form()
    pre_save.connect(refuse, sender=Schedule)
    try:
        response = admin_client.post(url, sent, follow=True)
    finally:
        pre_save.disconnect(refuse, sender=Schedule)
    assert response.status_code == 200
    assert "It was not saved: Not on Sundays." in response.content.decode()
    assert list(Schedule.objects.values_list("name", flat=True)) == [None]


def test_page__of_one_that_has_run_while_it_is_saved(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    pk = row(schedule_type="O").pk
    sent = opened(admin_client, pk) | {"name": "renamed"}
    save = ScheduleAdmin.save_model

    def run_and_save(*args: Any, **kwargs: Any) -> None:
        Schedule.objects.all().delete()
        save(*args, **kwargs)

    monkeypatch.setattr(ScheduleAdmin, "save_model", run_and_save)
    assert "It was not saved: It has run, or was deleted" in send(admin_client, pk, sent).content.decode()


def test_page__a_move_is_one(admin_client: Client) -> None:
    pk = row().pk
    response = edit(admin_client, pk, next_run_0="2026-01-01", next_run_1="00:00:00")
    assert Schedule.objects.get().next_run == datetime(2026, 1, 1, tzinfo=UTC)
    assert "it runs at once" in response.content.decode()


def test_page__tells_that_the_default_runs_at_once(admin_client: Client) -> None:
    form = admin_client.get(reverse("admin:django_q_schedule_add")).context["adminform"].form
    now = form["next_run"].value()
    fields = schedule_form(next_run_0=f"{now:%Y-%m-%d}", next_run_1=f"{now:%H:%M:%S}")
    html = admin_client.post(reverse("admin:django_q_schedule_add"), fields, follow=True).content.decode()
    assert "it runs at once" in html
    html = admin_client.post(reverse("admin:django_q_schedule_add"), schedule_form(repeats="0"), follow=True).content.decode()
    assert "It never runs" in html


def test_page__tells_when_a_changed_cron_line_begins(admin_client: Client) -> None:
    pk = row(schedule_type="C", cron="0 0 1 1 *", next_run=timezone.now() + timedelta(days=300)).pk
    edit(admin_client, pk, cron="*/5 * * * *")
    assert Schedule.objects.get().next_run <= timezone.now() + timedelta(minutes=5)
    html = edit(admin_client, pk, cron="30 7 * * *", next_run_0="2090-01-01", next_run_1="12:00:00").content.decode()
    assert Schedule.objects.get().next_run == datetime(2090, 1, 2, 7, 30, tzinfo=UTC)
    assert "It runs next at 2090-01-02 07:30" in html


def test_page__the_zone(admin_client: Client, settings: Settings) -> None:
    settings.NOTIFIER_TIME_ZONE = "Asia/Tokyo"
    html = page(admin_client, "django_q_schedule_add")
    assert "the default: Asia/Tokyo" in html
    fields = schedule_form(schedule_type="C", cron="0 7 * * *", zone="Asia/Kolkata")
    admin_client.post(reverse("admin:django_q_schedule_add"), fields)
    made = Schedule.objects.get()
    assert (made.next_run.hour, made.next_run.minute) == (1, 30)
    assert (
        re.findall(r"<div>[\d-]+ ([\d:]+ \w+)</div>", page(admin_client, "django_q_schedule_change", made.pk))
        == ["07:00:00 IST"] * 5
    )
    edit(admin_client, made.pk, name="renamed")
    assert ScheduleState.objects.get().zone == "Asia/Kolkata"
    edit(admin_client, made.pk, zone="")
    assert (ScheduleState.objects.get().zone, Schedule.objects.get().next_run.hour) == ("", 22)
    ScheduleState.objects.update(zone="Europe/Atlantis")
    assert not edit(admin_client, made.pk, name="again").context.get("errors")
    assert (ScheduleState.objects.get().zone, Schedule.objects.get().name) == ("Europe/Atlantis", "again")


def test_page__the_next_runs(admin_client: Client) -> None:
    def coming(**fields: Any) -> list[str]:
        html = page(admin_client, "django_q_schedule_change", row(**fields).pk)
        return re.findall(r"<div>([\d-]+) \S+ UTC</div>", html)

    last = datetime(2090, 1, 31, tzinfo=UTC)
    assert coming(schedule_type="M", next_run=last) == ["2090-01-31", "2090-02-28", "2090-03-31", "2090-04-30", "2090-05-31"]
    assert coming(schedule_type="M", next_run=last, repeats=2) == ["2090-01-31", "2090-02-28"]
    assert coming(schedule_type="O", next_run=last) == ["2090-01-31"]
    assert coming(schedule_type="O", next_run=last, repeats=0) == []


# Pausing, and what else is to be seen.


def test_pause__and_resume(admin_client: Client) -> None:
    first, second = row(next_run=PAST).pk, row(next_run=PAST, schedule_type="O").pk
    assert "2 of 2 were paused" in act(admin_client, "django_q_schedule", "pause", [first, second])
    assert "0 of 1 were paused" in act(admin_client, "django_q_schedule", "pause", [first])
    for html in (page(admin_client, "django_q_schedule_changelist"), page(admin_client, "django_q_schedule_change", first)):
        assert "Paused by admin since" in html
    edit(admin_client, first, name="renamed")
    assert ScheduleState.objects.exclude(paused_at=None).count() == 2
    assert "2 of 2 were resumed" in act(admin_client, "django_q_schedule", "resume", [first, second])
    assert "Paused" not in page(admin_client, "django_q_schedule_changelist")
    assert timezone.now() < Schedule.objects.get(pk=first).next_run <= timezone.now() + timedelta(days=1)
    assert Schedule.objects.get(pk=second).next_run == PAST, "it runs once, if late"
    assert ScheduleState.objects.get(pk=first).anchor == PAST


def test_page__why_it_is_broken(admin_client: Client) -> None:
    schedule = row(args="hello")
    note = fingerprint(schedule, zone="", next_run=schedule.next_run)
    ScheduleState.objects.create(schedule=schedule, problem="They can't be read", problem_fingerprint=note, problem_at=PAST)
    for html in (
        page(admin_client, "django_q_schedule_changelist"),
        page(admin_client, "django_q_schedule_change", schedule.pk),
    ):
        assert "Problem since 2020-01-31 07:00:00.000: They can&#x27;t be read" in html
    Schedule.objects.update(args="'hello'")
    assert "Problem" not in page(admin_client, "django_q_schedule_changelist")


def test_page__a_doubt(admin_client: Client) -> None:
    made = Schedule.objects.create(func="no_such_module.function")
    assert "There is no function no_such_module.function" in page(admin_client, "django_q_schedule_changelist")
    made.func = WRITE
    made.save()
    assert "no_such_module" not in page(admin_client, "django_q_schedule_changelist")


def test_page__a_cluster_that_nobody_serves(admin_client: Client) -> None:
    pk = row(cluster="nope").pk
    for html in (page(admin_client, "django_q_schedule_changelist"), page(admin_client, "django_q_schedule_change", pk)):
        assert "No cluster nope runs" in html
    worker("a" * 32, queue="nope")
    assert "No cluster nope runs" not in page(admin_client, "django_q_schedule_changelist")


def test_page__never(admin_client: Client) -> None:
    row(next_run=None)
    assert re.findall(r"field-due[^>]*>([^<]+)<", page(admin_client, "django_q_schedule_changelist")) == ["never"]


def test_page__of_a_hundred_takes_as_many_queries_as_of_one(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(100):
        ScheduleState.objects.create(schedule=row(name=str(number)), paused_at=PAST)
    with django_assert_max_num_queries(12):
        page(admin_client, "django_q_schedule_changelist")


def test_viewer__may_look_and_change_nothing(admin_client: Client) -> None:
    made = row(schedule_type="X", args="hello", cluster="nope", name="shown")
    ScheduleState.objects.create(schedule=made, zone="Asia/Tokyo", paused_at=PAST, paused_by="alice")
    client = staff("view_schedule")
    html = page(client, "django_q_schedule_change", made.pk)
    for text in ("Asia/Tokyo", "Paused by alice", "No cluster nope runs", "hello"):
        assert text in html
    assert "<select" not in html
    assert "shown" in page(client, "django_q_schedule_changelist")
    assert client.post(reverse("admin:django_q_schedule_change", args=[made.pk]), {"name": "x"}).status_code == 403
    act(client, "django_q_schedule", "resume", [made.pk])
    assert ScheduleState.objects.get().paused_by == "alice"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("kwargs", "expected"), [("message='x'", {"message": "x"}), ("{'message': 'x'}", {"message": "x"}), ("", {})]
)
def test_schedule__keyword_arguments(admin_client: Client, kwargs: str, expected: dict[str, str]) -> None:
    admin_client.post(reverse("admin:django_q_schedule_add"), schedule_form(kwargs=kwargs, args="" if kwargs else "'x'"))
    scheduler(broker=Broker())
    assert queue.preview(OrmQ.objects.get()).kwargs == expected


def test_schedule__broken_and_given_a_zone(admin_client: Client) -> None:
    """Its line stays as it is; the page of the form is no 500."""
    (made,) = Schedule.objects.bulk_create([Schedule(func="math.floor", args="1", schedule_type="C", cron="0 0 31 2 *")])
    assert edit(admin_client, made.pk, zone="Asia/Tokyo").status_code == 200
    assert Schedule.objects.get(pk=made.pk).cron == "0 0 31 2 *"


@pytest.mark.parametrize(("day", "zone"), [("0001-01-01", "Europe/Berlin"), ("9999-12-31", "America/New_York")])
def test_schedule__at_a_moment_that_no_zone_can_show(admin_client: Client, day: str, zone: str) -> None:
    (made,) = Schedule.objects.bulk_create([Schedule(func="math.floor", args="1", schedule_type="H")])
    with timezone.override(zone):
        response = edit(admin_client, made.pk, next_run_0=day, next_run_1="23:00:00" if day > "2" else "00:00:00")
    assert response.status_code == 200
    assert "next_run" in response.context["adminform"].form.errors
