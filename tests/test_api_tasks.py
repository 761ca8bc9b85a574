"""GET /tasks and GET /tasks/{id}: what clients see of tasks, over real HTTP, while a real cluster runs them."""

import json
import os
import re
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django_q.models import OrmQ, Task

from durable_queue.intake import packaging
from durable_queue.models import Worker
from durable_queue.store.broker import Broker
from durable_queue.task import signing
from durable_queue.task.identifiers import new_task_id
from tests.support import selection
from tests.support.api import UNKNOWN, Api, api, queue
from tests.support.api_tasks import released
from tests.support.clusters import Cluster
from tests.support.processes import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), selection.slow_on_postgresql]

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
MOMENTS = ("enqueued_at", "due_at", "started_at", "finished_at", "cancel_requested_at")
ENDED = ("succeeded", "failed", "cancelled")
ENV = {"DJANGO_SETTINGS_MODULE": "tests.support.api_settings"}
CALL = "tests.support.api_tasks."


@pytest.fixture(scope="module")
def client(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A web process."""
    with api(tmp_path_factory.mktemp("web")) as found:
        yield found
        assert "Traceback" not in found.output.read_text()


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Path]:
    """The file that tasks wait for."""
    with released(tmp_path / "go") as path:
        yield path


def there(task: dict[str, Any]) -> set[str]:
    """Which of the moments are there; all are in their order, and as RFC 3339 writes them."""
    found = {name: task[name] for name in MOMENTS if task[name]}
    assert all(MOMENT.fullmatch(text) for text in found.values()), found
    order = [datetime.fromisoformat(found[name]) for name in ("enqueued_at", "started_at", "finished_at") if name in found]
    assert order == sorted(order)
    assert (task["wait_ms"] is None) == (task["started_at"] is None)
    assert (task["run_ms"] is None) == (task["finished_at"] is None)
    return set(found)


def test_task__waits(client: Api) -> None:
    queued, scheduled = queue("give"), queue("give", seconds=3600, name="bob")
    task = client.task(queued)
    assert task["id"] == queued
    assert (task["status"], task["name"], task["attempts"], task["max_attempts"]) == ("queued", "alice", 0, 3)
    assert (task["progress"], task["result"], task["error"]) == ({"done": 0, "of": 1}, None, None)
    assert there(task) >= {"enqueued_at"}
    assert not there(task) & {"started_at", "finished_at", "cancel_requested_at"}
    task = client.task(scheduled)
    assert (task["status"], task["name"]) == ("scheduled", "bob")
    assert there(task) == {"enqueued_at", "due_at"}
    due, enqueued = (datetime.fromisoformat(task[name]) for name in ("due_at", "enqueued_at"))
    assert 3590 < (due - enqueued).total_seconds() < 3601


def test_task__runs_and_succeeds(client: Api, cluster: Cluster, go: Path) -> None:
    calls: Any = ((f"{CALL}give", (1,), {}), (f"{CALL}hold", (str(go), {"a": [1, None]}), {}))
    task_id = queue_calls(*calls)
    with cluster(env=ENV):
        wait_until(lambda: client.task(task_id)["progress"] == {"done": 1, "of": 2}, what="its first call is done")
        task = client.task(task_id)
        assert (task["status"], task["attempts"], task["result"]) == ("running", 1, None)
        assert there(task) >= {"enqueued_at", "started_at"}
        assert not there(task) & {"finished_at"}
        go.touch()
        task = client.wait_for(task_id, "succeeded")
    assert (task["result"], task["result_is_repr"], task["error"]) == ([1, {"a": [1, None]}], False, None)
    assert (task["attempts"], task["progress"]) == (1, {"done": 2, "of": 2})
    assert there(task) >= {"enqueued_at", "started_at", "finished_at"}
    assert task["run_ms"] > 0


def queue_calls(*calls: Any) -> str:
    """Queue a task of several calls; return its id."""
    return packaging.enqueue("durable_queue.run_in_order", calls, {}, name="two calls")


def test_task__fails(client: Api, cluster: Cluster, tmp_path: Path) -> None:
    retrying, failed = queue("fail_for_long", "/srv/secret folder"), queue("fail_for_good")
    with cluster(env=ENV):
        task = client.wait_for(retrying, "retrying")
        assert task["error"] == "IsADirectoryError: [Errno 21] Is a directory: '…/log.txt'"
        assert (task["attempts"], task["result"]) == (1, None)
        assert there(task) == {"enqueued_at", "due_at", "started_at", "finished_at"}
        task = client.wait_for(failed, "failed")
    assert (task["error"], task["result"], task["attempts"]) == ("ValueError: two", None, 1)
    assert there(task) >= {"enqueued_at", "started_at", "finished_at"}


def test_task__not_known(client: Api, cluster: Cluster) -> None:
    gone, unsaved = queue("give"), queue("give", save=False)
    with cluster(env=ENV):
        client.wait_for(gone, "succeeded")
        wait_until(lambda: client.ask("GET", f"/tasks/{unsaved}").status == 404, what="it has run, and is not kept")
    Task.objects.filter(pk=gone).delete()
    for name in (gone, UNKNOWN, "x", UNKNOWN[1:], UNKNOWN + "0", f"{UNKNOWN[1:]}g", f"{UNKNOWN[2:]}%00", "%F0%9F%99%82" * 8):
        answer = client.ask("GET", f"/tasks/{name}")
        assert (answer.status, answer.body) == (404, b'{"detail":"Not Found"}'), name


def test_task__letters_are_compared_as_they_are(client: Api) -> None:
    lower, upper = new_task_id(), new_task_id().upper()
    for task_id in (lower, upper):
        task = packaging.new_task(f"{CALL}give", (), {}, name=task_id) | {"id": task_id}
        Broker().enqueue_all([signing.dumps(task)])
    assert client.task(lower)["name"] == lower
    assert client.task(upper)["name"] == upper
    assert client.ask("GET", f"/tasks/{upper.lower()}").status == 404


@pytest.mark.parametrize(
    ("value", "result", "is_repr"),
    [
        pytest.param("half \ud800", r"'half \ud800'", True, id="surrogate"),
        pytest.param(b"\xff\0", r"b'\xff\x00'", True, id="bytes"),
        pytest.param("naïve \0 🙂", "naïve \0 🙂", False, id="text"),
    ],
)
def test_result__of_all_sorts(client: Api, cluster: Cluster, value: object, result: object, is_repr: bool) -> None:
    task_id = queue("give", value)
    with cluster(env=ENV):
        task = client.wait_for(task_id, "succeeded")
    assert (task["result"], task["result_is_repr"]) == (result, is_repr)


def test_result__huge(client: Api, cluster: Cluster) -> None:
    text, numbers = queue("give", "x" * 3_000_000), queue("give", list(range(200_000)))
    with cluster(env=ENV):
        for task_id in (text, numbers):
            client.wait_for(task_id, "succeeded")
            answer = client.ask("GET", f"/tasks/{task_id}")
            assert json.loads(answer.body)["result_is_repr"]
            assert len(answer.body) < 100_000
    assert len(client.ask("GET", "/tasks").body) < 100_000


def test_result__that_would_run_code(client: Api, cluster: Cluster, tmp_path: Path) -> None:
    """The worker itself loads a result once, to see that it can be loaded; nobody who reads it does."""
    mark = tmp_path / "mark"
    task_id = queue("give_code", str(mark))
    with cluster(env=ENV):
        task = client.wait_for(task_id, *ENDED)
    ran = mark.read_text() if mark.exists() else ""
    client.task(task_id)
    client.get("/tasks")
    assert (mark.read_text() if mark.exists() else "") == ran
    assert task["status"] == "succeeded"
    assert task["result"] == f"tests.support.api_tasks._leave({str(mark)!r})"


def test_task__while_its_worker_is_killed(client: Api, cluster: Cluster, go: Path) -> None:
    """Whoever asks again and again sees it run, wait, run again and succeed, and never misses it."""
    task_id = queue("hold", str(go))
    begun = go.with_suffix(".begun")
    seen: list[str] = []

    def look() -> str:
        status: str = client.task(task_id)["status"]
        if not seen or seen[-1] != status:
            seen.append(status)
        return status

    with cluster(env=ENV, workers=2):
        wait_until(lambda: look() == "running" and begun.exists(), what="it runs")
        begun.unlink()
        for worker in Worker.objects.all():
            os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: look() and begun.exists(), what="another worker runs it")
        go.touch()
        wait_until(lambda: look() in ENDED, what="it ends")
    assert seen[0] in ("queued", "running")
    assert seen[-1] == "succeeded"
    assert set(seen) <= {"queued", "running", "retrying", "succeeded"}
    assert client.task(task_id)["attempts"] >= 1


def test_list__pages(client: Api) -> None:
    ids = [queue("give", name=f"task {number}") for number in range(7)]
    pages, target = [], "/tasks?limit=3"
    while True:
        page = client.get(target)
        assert page.keys() == {"tasks", "next"}
        pages.append([task["id"] for task in page["tasks"]])
        if page["next"] is None:
            break
        target = f"/tasks?limit=3&cursor={page['next']}"
        queue("give")  # what comes meanwhile does not move the others
    assert [task_id for page in pages for task_id in page] == ids[::-1]
    assert [len(page) for page in pages] == [3, 3, 1]


def test_list__by_state_and_queue(client: Api, cluster: Cluster) -> None:
    done, failed = queue("give", 1), queue("fail_for_good")
    with cluster(env=ENV):
        client.wait_for(done, "succeeded")
        client.wait_for(failed, "failed")
    waits, scheduled = queue("give"), queue("give", seconds=3600)

    def ids(query: str) -> list[str]:
        return [task["id"] for task in client.get(f"/tasks?{query}")["tasks"]]

    assert ids("") == ids("status=&queue=&limit=50") == [scheduled, waits, failed, done]
    assert {state: ids(f"status={state}") for state in ("succeeded", "failed", "queued", "scheduled", "running")} == {
        "succeeded": [done],
        "failed": [failed],
        "queued": [waits],
        "scheduled": [scheduled],
        "running": [],
    }
    assert ids("queue=notifier") == [scheduled, waits, failed, done]
    assert ids("queue=another") == ids("queue=%00") == ids("queue=%F0%9F%99%82") == []
    assert client.get("/tasks?status=succeeded")["tasks"][0]["result"] == 1


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ("limit=0", ["greater_than_equal"]),
        ("limit=101", ["less_than_equal"]),
        ("limit=x&status=y", ["enum", "int_parsing"]),
        ("cursor=x", ["cursor"]),
        ("cursor=%00", ["cursor"]),
        ("cursor=%F0%9F%99%82", ["cursor"]),
        (f"cursor={'9' * 5000}", ["cursor"]),
    ],
)
@selection.slow_on_postgresql
def test_list__refused(client: Api, query: str, kinds: list[str]) -> None:
    answer = client.ask("GET", f"/tasks?{query}")
    assert answer.status == 422
    problems = json.loads(answer.body)["detail"]
    assert [problem["type"] for problem in problems] == kinds
    assert all(problem.keys() >= {"type", "loc", "msg", "input"} for problem in problems)


@selection.once
def test_methods_and_slashes(client: Api) -> None:
    task = f"/tasks/{UNKNOWN}"
    for method in ("HEAD", "OPTIONS", "PUT", "BREW"):
        answer = client.ask(method, task)
        assert (answer.status, answer.headers["allow"]) == (405, "DELETE, GET")
        assert client.ask(method, f"{task}/cancel").headers["allow"] == "POST"
    for path in ("/tasks", task, f"{task}/cancel", f"{task}/retry", f"{task}/run-now"):
        for method in ("GET", "POST", "DELETE", "HEAD"):
            answer = client.ask(method, f"{path}//?a=b", Host="localhost")
            assert (answer.status, answer.headers["location"]) == (307, f"http://localhost{path}?a=b")
    assert client.ask("GET", f"{task}/other").status == 404
    assert not OrmQ.objects.exists()
