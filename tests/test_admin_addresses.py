"""Addresses of the admin that can name nothing, and tasks that wait for nobody."""

import asyncio
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from django_q.models import OrmQ, Schedule, Task
from django_q.tasks import async_task

from durable_queue.models import Worker
from notifier_project.people import PeopleHandler
from tests.support import selection
from tests.support.admin_site import LISTS, page
from tests.support.queue_rows import worker

pytestmark = [pytest.mark.django_db, selection.slow_on_postgresql]


def path_of(name: str) -> str:
    """The path of a list."""
    return f"/admin/{'/'.join(name.rsplit('_', 1))}/"


@pytest.mark.parametrize("name", LISTS)
def test_address__odd_keys_are_not_found(admin_client: Client, name: str) -> None:
    views = ("change", "history") if name == "durable_queue_worker" else ("change", "delete", "history")
    odd = ["%00", "a%00b", "9" * 5_000]
    odd += [] if "success" in name or "failure" in name else ["nonsense", "-1", "%D9%A3", "1_0"]
    for key, view in [(key, "change") for key in odd] + [("a%00b", view) for view in views]:
        assert admin_client.get(f"{path_of(name)}{key}/{view}/").status_code == 404, (key, view)


@pytest.mark.parametrize("name", LISTS)
def test_address__odd_questions_have_an_answer(admin_client: Client, name: str) -> None:
    for question in ("q=%00", "name__contains=%00", "schedule_type__exact=%00", "%00=1"):
        assert admin_client.get(f"{path_of(name)}?{question}").status_code == 404, question
    for question in ("lock__year=0", "started__year=99999999", "func__regex=(", "next_run__year=0"):
        assert admin_client.get(f"{path_of(name)}?{question}").status_code == 400, question
    for question in ("p=x", f"p={'9' * 5_000}", "o=x.9", "e=1"):
        assert admin_client.get(f"{path_of(name)}?{question}", follow=True).status_code == 200, question


@pytest.mark.parametrize("name", ["django_q_ormq", "django_q_success", "django_q_failure", "django_q_schedule"])
def test_address__odd_selections(admin_client: Client, name: str) -> None:
    now = timezone.now()
    OrmQ.objects.create(key="notifier", payload="", lock=now)
    Schedule.objects.create(func="math.hypot", args="3, 4", next_run=now)
    for success in (True, False):
        Task.objects.create(id=str(success), name="old", func="a.b", started=now, stopped=now, success=success)
    for key in ("a\0", "9" * 40, ""):
        answer = admin_client.post(path_of(name), {"action": "delete_selected", "_selected_action": [key], "post": "yes"})
        assert answer.status_code == 404, key


@selection.once
@pytest.mark.parametrize(
    ("path", "query"), [("/admin/auth/user/", b"username=%00"), ("/admin/r/1/\0/", b""), ("/static/\0", b"")]
)
def test_address__nul_in_those_that_are_not_ours(path: str, query: bytes) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("it is answered at once")

    scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": []}
    asyncio.run(PeopleHandler()(scope, receive, send))
    assert sent[0]["status"] == 404


def test_unserved__is_seen_in_the_admin(admin_client: Client) -> None:
    worker("alice", queue="notifier")
    async_task("math.hypot", 3, 4, cluster="nope", task_name="lost")
    async_task("math.hypot", 3, 4, task_name="served")
    OrmQ.objects.create(key="notifier:alone", payload="", lock=datetime.now(UTC))
    html = unescape(page(admin_client, "django_q_ormq_changelist"))
    assert html.count("no worker serves") == 1
    assert "Due: no worker serves the queue nope" in html
    only = page(admin_client, "django_q_ormq_changelist", state="unserved")
    assert "lost" in only
    assert "served</a>" not in only
    Worker.objects.all().delete()
    assert unescape(page(admin_client, "django_q_ormq_changelist")).count("no worker serves") == 3
