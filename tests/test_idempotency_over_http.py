"""`Task-Id` and `Idempotency-Key` over HTTP: what a client hears that sends the same request again, to any web process."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import selection
from tests.support.installations import QueueTable, execute, queue_table
from tests.support.processes import free_port, is_listening, manage, running, wait_until, web
from tests.support.raw_http import Answer, Connection, Request, ask

pytestmark = selection.slow_on_postgresql

ALICE = "/send-notification/alice?q=a"
PATIENCE = 40.0  # seconds for an answer, on a busy machine


@dataclass
class Service:
    """Two web processes of one installation."""

    ports: list[int]
    queue: QueueTable
    env: dict[str, str]

    def post(self, target: str = ALICE, key: str | None = "one", *, process: int = 0, **headers: str) -> Answer:
        """The answer of one of them to a POST."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        own = {} if key is None else {"Idempotency-Key": key}
        with Connection(self.ports[process], timeout=PATIENCE) as connection:
            return connection.ask(Request(target=target, headers=own | named))

    def queued(self) -> list[str]:
        """The ids of what is queued under a key."""
        return [ids for (ids,) in execute(self.env, "SELECT task_ids FROM durable_queue_idempotencykey")]


@pytest.fixture
def service(installation: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    """Two web processes and no worker."""
    manage("migrate", "--verbosity=0", env=installation)
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        for port in ports:
            stack.enter_context(web(env=installation, port=port, output=tmp_path / f"web-{port}"))
        yield Service(ports, stack.enter_context(queue_table(installation)), installation)


def test_requests__with_and_without_a_key(service: Service) -> None:
    """One after the other, on one service: it takes a second to start."""
    # Without one, each request is a task of its own.
    plain = [service.post(key=None) for _ in range(2)]
    assert [(answer.status, answer.body) for answer in plain] == [(200, b'{"message":"Message sent"}')] * 2
    assert len({answer.headers["task-id"] for answer in plain}) == 2
    assert service.queued() == []
    # The same request, to either process: the same answer.
    answers = [service.post(process=process) for process in (0, 1, 0)]
    assert {(answer.status, answer.body, answer.headers["task-id"]) for answer in answers} == {
        (200, b'{"message":"Message sent"}', answers[0].headers["task-id"])
    }
    assert service.queued() == [answers[0].headers["task-id"]]
    assert service.queue.waiting() == 3
    # Its body is not read: it may be another. Nor are its headers compared.
    assert service.post(Content_Type="application/json").headers["task-id"] == answers[0].headers["task-id"]
    # Another request with the key, by its path or its query: even if they mean the same.
    for target in ("/send-notification/bob?q=a", "/send-notification/alice?q=b", "/send-notification/%61lice?q=a"):
        refused = service.post(target)
        assert (refused.status, "task-id" in refused.headers) == (422, False)
        (problem,) = json.loads(refused.body)["detail"]
        assert (problem["type"], problem["loc"]) == ("idempotency_key_reused", ["header", "idempotency-key"])
    # The key belongs to its route.
    basic = service.post("/basic/send-notification/alice?q=a")
    assert (basic.status, basic.body) == (200, b'{"message":"Notification sent in the background"}')
    assert service.queue.waiting() == 4
    # Any text of up to 255 characters is one.
    for text in ("a", "a" * 255, '"quoted"', "a b, c", "\xe4"):
        assert service.post(key=text).status == 200
    assert service.queue.waiting() == 9
    assert_refused(service, "a" * 256, "string_too_long", "String should have at most 255 characters")
    assert service.post("/send-notification/%0A", key="two").status == 422
    assert service.post(key="two").status == 200, "a 422 keeps nothing"
    assert service.queue.waiting() == 10


def assert_refused(service: Service, key: str, kind: str, message: str) -> None:
    """A key is refused in FastAPI's shape."""
    refused = service.post(key=key)
    assert (refused.status, refused.headers["content-type"]) == (422, "application/json")
    (problem,) = json.loads(refused.body)["detail"]
    assert problem.items() >= {"type": kind, "msg": message, "loc": ["header", "idempotency-key"], "input": key}.items()


def test_key__empty(service: Service) -> None:
    request = Request(target=ALICE, headers={"X": "x\r\nIdempotency-Key:"})
    answer = ask(service.ports[0], request)
    assert answer.status == 422
    assert json.loads(answer.body)["detail"][0]["type"] == "string_too_short"
    assert service.queue.waiting() == 0


def test_key__at_once_on_two_processes(service: Service) -> None:
    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(lambda number: service.post(process=number % 2), range(50)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.headers["task-id"] for answer in answers}) == 1
    assert service.queue.waiting() == 1


@selection.slow_on_postgresql
def test_key__of_many_clients_at_once(service: Service) -> None:
    """Each sends its own twice, with all the others: a duplicate costs nobody else anything."""
    with ThreadPoolExecutor(40) as clients:
        answers = list(clients.map(lambda number: service.post(key=str(number // 2), process=number % 2), range(80)))
    assert {answer.status for answer in answers} == {200}
    assert [answer.headers["task-id"] for answer in answers[::2]] == [answer.headers["task-id"] for answer in answers[1::2]]
    assert service.queue.waiting() == 40


def test_process__killed_before_it_answers(installation: dict[str, str], tmp_path: Path) -> None:
    manage("migrate", "--verbosity=0", env=installation)
    port, output = free_port(), tmp_path / "web-output"
    command = [sys.executable, "-m", "tests.support.dying_web", str(port)]
    headers = {"Idempotency-Key": "one"}
    with queue_table(installation) as queue, running(command, env=installation, output=output):
        wait_until(lambda: is_listening(port), what="the web listens")
        with pytest.raises(ConnectionError):
            ask(port, Request(target=ALICE, headers=headers | {"X-Die": "1"}))
        assert queue.waiting() == 1
        answer = ask(port, Request(target=ALICE, headers=headers))
        assert answer.status == 200
        assert queue.waiting() == 1
    assert execute(installation, "SELECT task_ids FROM durable_queue_idempotencykey") == [(answer.headers["task-id"],)]


def test_key__after_a_503(service: Service) -> None:
    """Whether it was queued or not: it is, once."""
    with service.queue.locked():
        refused = service.post()
        assert (refused.status, "task-id" in refused.headers) == (503, False)
    answer = service.post()
    while answer.status == 503:  # PostgreSQL may not have answered the first one yet
        answer = service.post()
    assert answer.status == 200
    assert service.queued() == [answer.headers["task-id"]]
    assert service.queue.waiting() == 1
