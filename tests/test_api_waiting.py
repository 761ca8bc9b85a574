"""GET /tasks/{id}?wait=…: clients that wait for the end of a task, over real HTTP. None of them keeps anybody else waiting."""

import asyncio
import json
import signal
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.http import HttpRequest

from durable_queue import status
from notifications.api.waiting import status_at_end
from tests.support import environment, selection
from tests.support.api import OLIVIA, UNKNOWN, Api, api, queue, waiting
from tests.support.api_tasks import released
from tests.support.clusters import Cluster
from tests.support.processes import wait_until
from tests.support.raw_http import Answer, Connection, Request

pytestmark = [pytest.mark.django_db(transaction=True), selection.slow_on_postgresql]

ENV = {"DJANGO_SETTINGS_MODULE": "tests.support.api_settings"}


@pytest.fixture(scope="module")
def client(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A web process."""
    with api(tmp_path_factory.mktemp("web")) as found:
        yield found


@selection.once
@pytest.mark.parametrize("is_over", [False, True])
def test_wait__beside_a_task_with_an_odd_row(is_over: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It spoils the answers of those alone who wait for it."""
    ids = [f"{number:032x}" for number in range(9)]

    def states(task_ids: Collection[str]) -> dict[str, Any]:
        if ids[7] in task_ids:
            raise ValueError("an odd row")
        return dict.fromkeys(task_ids, "its state")

    async def ask() -> list[Any]:
        waits = [status_at_end(HttpRequest(), task_id, 0.01 if is_over else 60) for task_id in [*ids, ids[7]]]
        return await asyncio.gather(*waits, return_exceptions=True)

    monkeypatch.setattr(status, "have_ended", set)
    monkeypatch.setattr(status, "statuses", states)
    answers = asyncio.run(ask())
    assert [*answers[:7], answers[8]] == ["its state"] * 8
    assert [str(answers[7]), str(answers[9])] == ["an odd row"] * 2


def status_in(answer: Answer) -> str:
    """The state of the task that an answer holds."""
    assert answer.status == 200, answer
    return str(json.loads(answer.body)["status"])


def seconds_for(client: Api, target: str, **headers: str) -> tuple[float, Answer]:
    """How long an answer takes, and the answer."""
    began = time.monotonic()
    answer = client.ask("GET", target, **headers)
    return time.monotonic() - began, answer


def test_wait__until_the_end(client: Api, cluster: Cluster, tmp_path: Path) -> None:
    with released(tmp_path / "go") as go, cluster(env=ENV):
        task_id = queue("hold", str(go), 7)
        wait_until(go.with_suffix(".begun").exists)
        with waiting(client, f"/tasks/{task_id}?wait=30") as answer:
            assert not answer.done()
            go.touch()
            began = time.monotonic()
            task = json.loads(answer.result().body)
    assert (task["status"], task["result"]) == ("succeeded", 7)
    assert time.monotonic() - began < 20


def test_wait__for_fifty_tasks_and_one_of_them_twice(client: Api, cluster: Cluster, tmp_path: Path) -> None:
    with released(tmp_path / "go") as go, cluster(env=ENV), ThreadPoolExecutor(51) as clients:
        ids = [queue("hold", str(go)) if number % 2 else queue("give", number) for number in range(50)]
        answers = [clients.submit(client.ask, "GET", f"/tasks/{task_id}?wait=30") for task_id in [*ids, ids[-1]]]
        wait_until(lambda: sum(answer.done() for answer in answers) >= 25, what="the quick ones are done")
        assert {status_in(answer.result()) for answer in answers[:50:2]} == {"succeeded"}
        assert not any(answer.done() for answer in answers[1:50:2])
        go.touch()
        assert {status_in(answer.result()) for answer in answers} == {"succeeded"}


@selection.slow_on_postgresql
def test_wait__until_the_time_is_up(client: Api) -> None:
    task_id = queue("give")
    for query, headers in (("?wait=0.5", {}), ("", {"Prefer": "wait=1"}), ("?wait=0.5", {"Prefer": "wait=30"})):
        seconds, answer = seconds_for(client, f"/tasks/{task_id}{query}", **headers)
        assert status_in(answer) == "queued"
        assert 0.5 <= seconds < 20
        assert answer.headers.get("preference-applied") == (None if query else "wait=1")


@selection.slow_on_postgresql
def test_wait__for_what_has_ended_or_is_not_known(client: Api, cluster: Cluster) -> None:
    task_id = queue("give")
    with cluster(env=ENV):
        client.wait_for(task_id, "succeeded")
    seconds, answer = seconds_for(client, f"/tasks/{task_id}", Prefer="respond-async, wait=600")
    assert (status_in(answer), answer.headers["preference-applied"]) == ("succeeded", "wait=30")
    assert seconds < 20
    seconds, answer = seconds_for(client, f"/tasks/{UNKNOWN}?wait=30")
    assert (answer.status, answer.body) == (404, b'{"detail":"Not Found"}')
    assert seconds < 20


@selection.once
@pytest.mark.parametrize("text", ["31", "-1", "x", "", "nan"], ids=ascii)
def test_wait__refused(client: Api, text: str) -> None:
    answer = client.ask("GET", f"/tasks/{UNKNOWN}?wait={text}", Prefer="wait=1")
    assert (answer.status, json.loads(answer.body)["detail"][0]["loc"]) == (422, ["query", "wait"])


@selection.once
@pytest.mark.parametrize("prefer", ["wait=0", "wait=-1", "wait", "waiting=9", '"'])
def test_wait__a_preference_that_says_nothing(client: Api, prefer: str) -> None:
    seconds, answer = seconds_for(client, f"/tasks/{queue('give')}", Prefer=prefer)
    assert status_in(answer) == "queued"
    assert seconds < 20


def has_place(client: Api, task_id: str) -> bool:
    """Whether one more client could wait."""
    return "preference-applied" in client.ask("GET", f"/tasks/{task_id}", Prefer="wait=1").headers


@selection.slow_on_postgresql
def test_wait__with_no_place_left(tmp_path: Path) -> None:
    """The present state is answered at once; a client that hangs up frees its place."""
    with api(tmp_path, env={"TEST_MOST_WAITING": "1"}) as client:
        task_id = queue("give")
        with Connection(client.port) as first:
            headers = {"Authorization": f"Bearer {OLIVIA}"}
            first.send(Request(target=f"/tasks/{task_id}?wait=30", method="GET", headers=headers).encode())
            wait_until(lambda: not has_place(client, task_id), what="the first has the place")
            seconds, answer = seconds_for(client, f"/tasks/{task_id}?wait=30")
            assert status_in(answer) == "queued"
            assert seconds < 20
        wait_until(lambda: has_place(client, task_id), what="its place is free")
        assert client.output.read_text() == ""


@selection.slow_on_postgresql
def test_wait__at_a_stop(tmp_path: Path) -> None:
    """The present state is answered before the connection ends."""
    with api(tmp_path, env={"TEST_MOST_WAITING": "2"}) as client:
        task_id = queue("give")
        with waiting(client, f"/tasks/{task_id}?wait=30") as one, waiting(client, f"/tasks/{task_id}?wait=30") as other:
            wait_until(lambda: not has_place(client, task_id), what="both wait")
            client.process.terminate()
            assert status_in(one.result()) == status_in(other.result()) == "queued"
            assert one.result().headers["connection"] == "close"
            assert client.process.wait(20) == -signal.SIGTERM  # as uvicorn does it, once all is answered
        assert client.output.read_text() == ""


@selection.slow_on_postgresql
def test_wait__while_all_threads_of_the_api_are_busy(tmp_path: Path, cluster: Cluster) -> None:
    task_id = queue("give")
    with cluster(env=ENV), api(tmp_path) as client, ThreadPoolExecutor(8) as others:
        busy = [others.submit(client.ask, "GET", "/tasks/hang") for _ in range(8)]
        assert status_in(client.ask("GET", f"/tasks/{task_id}?wait=30")) == "succeeded"
        assert not all(answer.done() for answer in busy)
        client.process.kill()


@contextmanager
def without_queue() -> Iterator[None]:
    """Meanwhile, nobody can look into the queue."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_q_ormq RENAME TO away")
        try:
            yield
        finally:
            cursor.execute("ALTER TABLE away RENAME TO django_q_ormq")


def test_wait__while_the_database_can_not_be_asked(client: Api) -> None:
    task_id = queue("give")
    before = client.output.read_text()
    assert status_in(client.ask("GET", f"/tasks/{task_id}?wait=0.1")) == "queued"
    with without_queue():
        with waiting(client, f"/tasks/{task_id}?wait=1") as one, waiting(client, f"/tasks/{task_id}?wait=0.1") as other:
            for answer in (one.result(), other.result()):
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        said = client.output.read_text().removeprefix(before)
        assert said.count("The ends of tasks can't be looked for: ") == 1, "one line for the whole time"
        assert "Traceback" not in said
    wait_until(lambda: client.ask("GET", f"/tasks/{task_id}?wait=1").status == 200, what="it heals")


@selection.on_postgresql
def test_wait__while_nobody_can_connect(tmp_path: Path) -> None:
    task_id = queue("give")
    with api(tmp_path) as client, waiting(client, f"/tasks/{task_id}?wait=30") as patient:
        assert status_in(client.ask("GET", f"/tasks/{task_id}?wait=0.1")) == "queued"
        with environment.database_away():
            assert client.ask("GET", f"/tasks/{task_id}?wait=0.5").status == 503
        assert not patient.done()
        wait_until(lambda: client.ask("GET", f"/tasks/{task_id}?wait=1").status == 200, what="it heals")
        client.process.terminate()
        assert status_in(patient.result()) == "queued"


@selection.on_postgresql
def test_wait__while_the_database_does_not_answer(client: Api) -> None:
    """Who waits has an answer when the time is up, at a stop too; there is one connection for all of them."""
    task_id = queue("give")
    assert status_in(client.ask("GET", f"/tasks/{task_id}?wait=0.1")) == "queued"
    with environment.administration() as other, ThreadPoolExecutor(20) as clients:
        name = str(connection.settings_dict["NAME"])
        with psycopg.connect(environment.database_url(name)) as locker:
            locker.execute("LOCK TABLE django_q_ormq IN ACCESS EXCLUSIVE MODE")
            answers = [clients.submit(client.ask, "GET", f"/tasks/{task_id}?wait=0.5") for _ in range(20)]
            assert {answer.result().status for answer in answers} == {503}
            other.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'", (name,))
            assert other.fetchall() == [(1,)]
            locker.rollback()
        wait_until(lambda: client.ask("GET", f"/tasks/{task_id}?wait=1").status == 200, what="it heals")
