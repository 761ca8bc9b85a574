"""The admin's pages: who may see them, and what they show."""

import re
from datetime import timedelta
from html import unescape

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_q.models import Failure, OrmQ, Success

from durable_queue import BackgroundTasks
from durable_queue.models import DeadLetter, FailedAttempt
from notifications.tasks import write_notification
from tests.support import selection
from tests.support.admin_site import LISTS, SCRIPT, TRACEBACK, page, post, refuse, settle, staff, take

pytestmark = [pytest.mark.django_db, selection.slow_on_postgresql]


@pytest.mark.parametrize("name", LISTS)
def test_list__anonymous_is_asked_to_log_in(client: Client, name: str) -> None:
    response = client.get(reverse(f"admin:{name}_changelist"))
    assert response.status_code == 302
    assert response.headers["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("name", LISTS)
def test_list__no_member_of_the_staff(client: Client, name: str) -> None:
    client.force_login(User.objects.create_user("mallory"))
    response = client.get(reverse(f"admin:{name}_changelist"))
    assert response.status_code == 302
    assert response.headers["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("name", LISTS)
def test_list__staff_without_permission(name: str) -> None:
    assert staff().get(reverse(f"admin:{name}_changelist")).status_code == 403


@pytest.mark.parametrize("name", ["django_q_ormq", "django_q_success", "django_q_failure", "durable_queue_worker"])
def test_list__nobody_adds_rows_by_hand(admin_client: Client, name: str) -> None:
    assert admin_client.get(reverse(f"admin:{name}_add")).status_code == 403


def test_index__names_the_pages(admin_client: Client) -> None:
    html = page(admin_client, "index")
    for title in ("Background tasks", "Queued tasks", "Successful tasks", "Failed tasks", "Scheduled tasks", "Workers"):
        assert title in html


def test_queue__shows_what_is_to_run(admin_client: Client) -> None:
    tasks = BackgroundTasks(name="message to alice@example.com")
    tasks.add_task(write_notification, "alice@example.com", message="some notification")
    task_id = tasks.enqueue()
    assert "message to alice@example.com" in page(admin_client, "django_q_ormq_changelist")
    html = unescape(page(admin_client, "django_q_ormq_change", OrmQ.objects.get().pk))
    for text in (
        task_id,
        "notifications.tasks.write_notification",
        "('alice@example.com',)",
        "{'message': 'some notification'}",
    ):
        assert str(text) in html
    assert "OrmQ object" not in html


def test_queue__tells_who_has_a_row(admin_client: Client) -> None:
    post("alice")
    take(1)
    post("bob")
    OrmQ.objects.filter(lock__lt=timezone.now()).update(lock=timezone.now() + timedelta(hours=1))
    post("carol")
    states = re.findall(r'field-state">([^<]+)<', page(admin_client, "django_q_ormq_changelist"))
    assert states == ["Due", "Due later", "Taken by worker 4242 on elsewhere"]


@pytest.mark.parametrize(("state", "name"), [("due", "carol"), ("later", "bob"), ("taken", "alice")])
def test_queue__by_state(admin_client: Client, state: str, name: str) -> None:
    post("alice")
    take(1)
    post("bob")
    OrmQ.objects.filter(lock__lt=timezone.now()).update(lock=timezone.now() + timedelta(hours=1))
    post("carol")
    html = page(admin_client, "django_q_ormq_changelist", state=state)
    assert re.findall(r"message to (\w+)</a>", html) == [name]


def test_queue__tells_of_attempts_so_far(admin_client: Client) -> None:
    task_id = post("alice")
    row = OrmQ.objects.get()
    now = timezone.now()
    FailedAttempt.objects.create(
        row=row.pk, task_id=task_id, number=1, outcome="lost", worker="7 on host", started=now, stopped=now, error="killed"
    )
    OrmQ.objects.update(lock=now + timedelta(minutes=1))
    assert "Waits for attempt 2" in page(admin_client, "django_q_ormq_changelist")
    html = page(admin_client, "django_q_ormq_change", row.pk)
    assert "1. Lost: its worker was killed" in html
    assert "killed</pre>" in html


def test_success__shows_what_ran(admin_client: Client) -> None:
    task_id = post("alice", group="friends", task_name="message to alice")
    settle(result={"written": 17})
    assert "message to alice" in page(admin_client, "django_q_success_changelist")
    html = unescape(page(admin_client, "django_q_success_change", task_id))
    for text in (
        "notifications.tasks.write_log",
        r"('message to alice\n',)",
        "{'written': 17}",
        "friends",
        "Queued at",
        "Duration",
    ):
        assert text in html
    assert "Failed attempts" not in html


def test_failure__keeps_the_lines_of_its_traceback(admin_client: Client) -> None:
    task_id = post("alice")
    settle(error=TRACEBACK)
    assert "disk full" in page(admin_client, "django_q_failure_changelist")
    blocks = re.findall(r"<pre[^>]*>(.*?)</pre>", page(admin_client, "django_q_failure_change", task_id), re.DOTALL)
    assert TRACEBACK in [unescape(block) for block in blocks]


def test_failure__an_endless_error_is_cut(admin_client: Client) -> None:
    task_id = post("alice")
    settle(error="x" * 10_000_000)
    assert len(page(admin_client, "django_q_failure_change", task_id)) < 100_000


def test_pages__escape_what_clients_sent(admin_client: Client) -> None:
    queued, done, failed = (BackgroundTasks(name=SCRIPT) for _ in range(3))
    htmls = []
    for tasks, name in ((done, "django_q_success"), (failed, "django_q_failure"), (queued, "django_q_ormq")):
        tasks.add_task(write_notification, SCRIPT, message=SCRIPT)
        key: object = tasks.enqueue()
        if tasks is queued:
            key = OrmQ.objects.get().pk
        else:
            settle(error=SCRIPT if tasks is failed else "", result=SCRIPT)
        htmls += [page(admin_client, f"{name}_changelist"), page(admin_client, f"{name}_change", key)]
    for html in htmls:
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert" in html


def test_history__is_read_only(admin_client: Client) -> None:
    task_id = post("alice")
    settle()
    response = admin_client.post(reverse("admin:django_q_success_change", args=[task_id]), {"name": "forged"})
    assert response.status_code == 403
    assert Success.objects.get().name == "message to alice"


def test_history__deleting_takes_attempts_and_payload_along(admin_client: Client) -> None:
    post("alice")
    refuse("There is no such function.")
    kept = post("bob")
    settle(error=TRACEBACK)
    alice = Failure.objects.exclude(pk=kept).get()
    assert DeadLetter.objects.filter(task_id=alice.pk).exists()
    admin_client.post(reverse("admin:django_q_failure_delete", args=[alice.pk]), {"post": "yes"})
    assert [task.pk for task in Failure.objects.all()] == [kept]
    assert [attempt.task_id for attempt in FailedAttempt.objects.all()] == [kept]
    assert not DeadLetter.objects.exists()


def test_history__a_deletion_takes_the_tasks_first(admin_client: Client) -> None:
    """As the verbs do: on PostgreSQL, two that take the same rows in different orders may wait for each other."""
    ids = [post("alice"), post("bob")]
    settle(error=TRACEBACK)
    words = {"action": "delete_selected", "_selected_action": ids, "post": "yes"}
    with CaptureQueriesContext(connection) as queries:
        admin_client.post(reverse("admin:django_q_failure_changelist"), words)
    deleted = [query["sql"].split('"')[1] for query in queries if query["sql"].startswith("DELETE")]
    assert deleted[0] == "django_q_task"
    assert FailedAttempt._meta.db_table in deleted
    locked = [query["sql"] for query in queries if query["sql"].endswith("FOR UPDATE")]
    assert len(locked) == (connection.vendor == "postgresql")
    assert not Failure.objects.exists()
    assert not FailedAttempt.objects.exists()


def test_history__is_found_by_id_and_by_name(admin_client: Client) -> None:
    alice, _ = post("alice"), post("bob")
    settle()
    for query in (alice, "to alice"):
        html = page(admin_client, "django_q_success_changelist", q=query)
        assert "message to alice" in html
        assert "message to bob" not in html


def test_worker__shows_what_it_holds(admin_client: Client) -> None:
    post("alice"), post("bob")
    worker = take(10)
    html = page(admin_client, "durable_queue_worker_changelist")
    assert "4242 on elsewhere" in html
    assert 'field-holds">2<' in html
    assert admin_client.get(reverse("admin:durable_queue_worker_delete", args=[worker.pk])).status_code == 403
