"""The admin's page of scheduled tasks.

Tests of what becomes of them need real transactions: the scheduler closes the connection that it finds.
"""

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.scheduler import scheduler

from durable_queue.admin import queue
from durable_queue.store.broker import Broker
from tests.support.admin_site import page, settle

pytestmark = pytest.mark.django_db


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


def test_schedule__cron(admin_client: Client) -> None:
    admin_client.post(reverse("admin:django_q_schedule_add"), schedule_form(schedule_type="C", cron="30 7 * * *"))
    assert (Schedule.objects.get().next_run.hour, Schedule.objects.get().next_run.minute) == (7, 30)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("kwargs", "expected"), [("message='x'", {"message": "x"}), ("{'message': 'x'}", {"message": "x"}), ("", {})]
)
def test_schedule__keyword_arguments(admin_client: Client, kwargs: str, expected: dict[str, str]) -> None:
    admin_client.post(reverse("admin:django_q_schedule_add"), schedule_form(kwargs=kwargs, args=""))
    scheduler(broker=Broker())
    assert queue.preview(OrmQ.objects.get()).kwargs == expected
