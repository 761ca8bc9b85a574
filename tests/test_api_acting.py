"""What the verbs of the API answer of a task that is kept nowhere, without a process of their own."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django_q.models import OrmQ

from durable_queue import verbs
from durable_queue.verbs import Came
from notifications.api import acting
from tests.support import selection
from tests.support.admin_site import post, settle

pytestmark = [pytest.mark.django_db, selection.slow_on_postgresql]


def said(view: Callable[[HttpRequest, str], HttpResponse], task_id: str) -> tuple[int, object]:
    """A view's status and body."""
    response = view(RequestFactory().post("/"), task_id)
    return response.status_code, json.loads(response.content)


def test_cancel__a_cached_task() -> None:
    task_id = post("alice", cached=True)
    assert said(acting.cancel, task_id) == (200, {"id": task_id})
    assert not OrmQ.objects.exists()


@pytest.mark.parametrize("verb", ["retry", "run_now"])
def test_verb__a_task_that_ends_at_once_and_is_not_kept(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = post("alice", save=False)
    if verb == "retry":
        verbs.cancel(task_id, by="bob")
    else:
        OrmQ.objects.update(lock=datetime.now(UTC) + timedelta(hours=1))
    act = getattr(verbs, verb)

    def act_and_run(task_id: str, *, by: str) -> Came:
        came: Came = act(task_id, by=by)
        settle()
        return came

    monkeypatch.setattr(verbs, verb, act_and_run)
    assert said(getattr(acting, verb), task_id) == (200, {"id": task_id})


def test_run_now__of_a_running_task_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "run_now", lambda task_id, *, by: Came.REFUSED)
    assert said(acting.run_now, "0" * 32) == (409, {"detail": "Only a task that waits can be run now."})
