"""POST …/cancel, …/retry, …/run-now and DELETE /tasks/{id}: what a client can do to a task, over real HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django_q.models import Task

from durable_queue.models import Cancellation, FailedAttempt
from tests.support import selection
from tests.support.api import UNKNOWN, Api, api, queue
from tests.support.api_tasks import released
from tests.support.clusters import Cluster, all_end
from tests.support.processes import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), selection.slow_on_postgresql]

ENV = {"DJANGO_SETTINGS_MODULE": "tests.support.api_settings"}


@pytest.fixture(scope="module")
def client(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A web process."""
    with api(tmp_path_factory.mktemp("web")) as found:
        yield found
        assert "Traceback" not in found.output.read_text()


@pytest.mark.parametrize(
    ("method", "verb"), [("POST", "/cancel"), ("POST", "/retry"), ("POST", "/run-now"), ("DELETE", "")], ids=str
)
def test_verb__for_no_task(client: Api, method: str, verb: str) -> None:
    for name in (UNKNOWN, UNKNOWN[1:], "x"):
        assert client.act(method, f"/tasks/{name}{verb}") == (404, {"detail": "Not Found"})


@pytest.mark.parametrize("seconds", [None, 3600], ids=["queued", "scheduled"])
def test_cancel__one_that_waits(client: Api, cluster: Cluster, seconds: float | None) -> None:
    task_id = queue("give", 1, seconds=seconds)
    status, task = client.act("POST", f"/tasks/{task_id}/cancel")
    assert (status, task["id"], task["status"], task["result"]) == (200, task_id, "cancelled", None)
    assert task["started_at"] is None
    assert task["cancel_requested_at"]
    assert Cancellation.objects.get().by == "olivia"
    assert client.act("POST", f"/tasks/{task_id}/cancel") == (200, client.task(task_id)), "who asks again hears the same"
    with cluster(env=ENV):
        assert client.task(task_id)["status"] == "cancelled"
    assert [found["id"] for found in client.get("/tasks?status=cancelled")["tasks"]] == [task_id]
    assert client.get("/tasks?status=failed")["tasks"] == []


def test_cancel__one_that_runs(client: Api, cluster: Cluster, tmp_path: Path) -> None:
    """The request is noted. A function that heeds nothing ends as it would have."""
    with released(tmp_path / "go") as go, cluster(env=ENV):
        task_id = queue("hold", str(go), 1)
        wait_until(go.with_suffix(".begun").exists)
        for _ in range(2):
            status, task = client.act("POST", f"/tasks/{task_id}/cancel")
            assert (status, task["id"], task["status"]) == (202, task_id, "running")
            assert task["cancel_requested_at"]
        go.touch()
        assert client.wait_for(task_id, "cancelled", "succeeded")["cancel_requested_at"]


def test_cancel__one_that_has_ended(client: Api, cluster: Cluster) -> None:
    task_id = queue("give", 1)
    with cluster(env=ENV):
        client.wait_for(task_id, "succeeded")
    assert client.act("POST", f"/tasks/{task_id}/cancel") == (409, {"detail": "It has ended already."})
    assert client.task(task_id)["status"] == "succeeded"


def test_retry(client: Api, cluster: Cluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    failed, cancelled = queue("fail_without", str(go)), queue("give", 1, seconds=3600)
    for task_id in (failed, cancelled):
        assert client.act("POST", f"/tasks/{task_id}/retry") == (
            409,
            {"detail": "Only a failed or cancelled task can be retried."},
        )
    client.act("POST", f"/tasks/{cancelled}/cancel")
    with cluster(env=ENV):
        client.wait_for(failed, "failed")
        go.touch()
        for task_id in (failed, cancelled):
            status, task = client.act("POST", f"/tasks/{task_id}/retry")
            assert (status, task["id"]) == (200, task_id)
            assert task["status"] in ("queued", "running", "succeeded")
            client.wait_for(task_id, "succeeded")
            assert client.act("POST", f"/tasks/{task_id}/retry")[0] == 409


def test_run_now(client: Api, cluster: Cluster, tmp_path: Path) -> None:
    scheduled, retrying = queue("give", 1, seconds=3600), queue("fail_for_long", "/srv")
    with released(tmp_path / "go") as go, cluster(env=ENV):
        running = queue("hold", str(go))
        wait_until(go.with_suffix(".begun").exists)
        assert client.act("POST", f"/tasks/{running}/run-now") == (409, {"detail": "Only a task that waits can be run now."})
        client.wait_for(retrying, "retrying")
        status, task = client.act("POST", f"/tasks/{retrying}/run-now")
        assert (status, task["id"]) == (200, retrying)
        wait_until(lambda: client.task(retrying)["attempts"] == 2 or FailedAttempt.objects.count() >= 2, what="it runs")
        status, task = client.act("POST", f"/tasks/{scheduled}/run-now")
        assert status == 200
        client.wait_for(scheduled, "succeeded")
        assert client.act("POST", f"/tasks/{scheduled}/run-now")[0] == 409
    queued = queue("give")
    assert client.act("POST", f"/tasks/{queued}/run-now") == (200, client.task(queued))
    assert client.task(queued)["status"] == "queued"


def test_delete(client: Api, cluster: Cluster) -> None:
    failed, succeeded, waits = queue("fail_for_good"), queue("give", 1), queue("give", seconds=3600)
    with cluster(env=ENV):
        client.wait_for(failed, "failed")
        client.wait_for(succeeded, "succeeded")
    for task_id in (failed, succeeded):
        answer = client.ask("DELETE", f"/tasks/{task_id}")
        assert (answer.status, answer.body) == (204, b"")
        assert "content-type" not in answer.headers
        assert client.ask("GET", f"/tasks/{task_id}").status == 404
        assert client.act("DELETE", f"/tasks/{task_id}") == (404, {"detail": "Not Found"})
    assert not Task.objects.exists()
    assert not FailedAttempt.objects.filter(task_id=failed).exists()
    assert client.act("DELETE", f"/tasks/{waits}") == (409, {"detail": "It has not ended. Cancel it first."})
    client.act("POST", f"/tasks/{waits}/run-now")
    with cluster(env=ENV):
        all_end()
    assert client.task(waits)["status"] == "succeeded"
