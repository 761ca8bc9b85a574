"""`POST /tasks` and `POST /tasks/bulk`: what is queued, what is refused and how, and what comes when it is sent again."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durable_queue.states import due_since
from tests.support import environment, selection
from tests.support.installations import QueueTable, execute, new_installation, queue_table
from tests.support.processes import free_port, manage, queue_workers, wait_until, web
from tests.support.raw_http import Answer, Connection, Request, ask

pytestmark = selection.slow_on_postgresql

ALICE = {"program": "query", "email": "alice"}
BOB = {"program": "basic", "email": "bob"}
SECOND = timedelta(seconds=1)
PATIENCE = 40.0  # seconds for an answer, on a busy machine


@dataclass
class Service:
    """A web process, and what is queued by it."""

    port: int
    queue: QueueTable
    env: dict[str, str]
    folder: Path

    def post(self, body: object, *, many: bool = False, **headers: str) -> Answer:
        """The answer to a POST; bytes are sent as they are."""
        named = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        with Connection(self.port, timeout=PATIENCE) as connection:
            return connection.ask(Request(target="/tasks/bulk" if many else "/tasks", headers=named, body=raw))

    def due(self) -> list[datetime]:
        """When the queued tasks are due, in the order of their ids."""
        rows = execute(self.env, "SELECT lock FROM django_q_ormq ORDER BY id")
        moments = [datetime.fromisoformat(lock) if isinstance(lock, str) else lock for (lock,) in rows]
        return [due_since(moment.replace(tzinfo=moment.tzinfo or UTC)) for moment in moments]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests of this module; no worker runs."""
    folder = tmp_path_factory.mktemp("service")
    with ExitStack() as stack:
        env = stack.enter_context(new_installation(folder))
        manage("migrate", "--verbosity=0", env=env)
        port = free_port()
        stack.enter_context(web(env=env, port=port, output=folder / "web-output"))
        service = Service(port, stack.enter_context(queue_table(env)), env, folder)
        # The first one imports pydantic, for which the limit on an answer may be short on a busy machine.
        wait_until(lambda: service.post(ALICE).status == 202, timeout=60, what="it queues")
        yield service


@pytest.fixture
def service(installed: Service) -> Iterator[Service]:
    """The service with an empty queue. It has printed nothing of an exception at the end."""
    for table in ("django_q_ormq", "durable_queue_idempotencykey"):
        execute(installed.env, f"DELETE FROM {table}")  # noqa: S608 - of this module
    yield installed
    assert "Traceback" not in (installed.folder / "web-output").read_text()


def moment(text: str) -> datetime:
    """A moment of an answer."""
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def is_near(one: datetime, other: datetime) -> bool:
    """Whether two moments are about the same."""
    return abs(one - other) < 20 * SECOND


# What is queued.


def test_task__now(service: Service) -> None:
    answer = service.post(ALICE | {"q": "a"})
    assert (answer.status, answer.headers["content-type"]) == (202, "application/json")
    task = json.loads(answer.body)
    assert answer.headers["location"] == f"/tasks/{task['id']}"
    assert (task["status"], task["name"], task["attempts"]) == ("queued", "message to alice", 0)
    assert task["progress"] == {"done": 0, "of": 2}
    assert task["due_at"] == task["enqueued_at"]
    assert is_near(moment(task["enqueued_at"]), datetime.now(UTC))
    assert is_near(service.due()[0], datetime.now(UTC))


@pytest.mark.parametrize("late", [{}, {"delay": 100}], ids=["now", "later"])
def test_task__is_shown_as_when_somebody_asks(service: Service, late: dict[str, Any]) -> None:
    shown = json.loads(service.post(ALICE | {"q": "a"} | late).body)
    found = json.loads(ask(service.port, Request(target=f"/tasks/{shown['id']}", method="GET")).body)
    assert is_near(moment(shown.pop("due_at")), moment(found.pop("due_at")))
    assert shown == found


@pytest.mark.parametrize("late", [{"delay": 3600}, {"delay": 3600.0}, {"at": "in an hour"}], ids=["delay", "fraction", "at"])
def test_task__later(service: Service, late: dict[str, Any]) -> None:
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    if "at" in late:
        late = {"at": in_an_hour.astimezone().isoformat()}
    answer = service.post(ALICE | late)
    task = json.loads(answer.body)
    assert (answer.status, task["status"]) == (202, "scheduled")
    assert is_near(moment(task["due_at"]), in_an_hour)
    assert abs(service.due()[0] - moment(task["due_at"])) < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "now",
    [
        {},
        {"delay": 0},
        {"delay": -0.0},
        {"delay": 1e-300},
        {"at": "1969-12-31T23:59:59Z"},
        {"at": "0001-01-01T00:00:00+23:59"},
        {"delay": None, "at": None, "q": None},
        {"program": "basic", "q": "is not written"},
        {"unknown": [1]},
    ],
    ids=str,
)
def test_task__the_past_is_now(service: Service, now: dict[str, Any]) -> None:
    """It overtakes nobody."""
    service.post(BOB)
    task = json.loads(service.post(ALICE | now).body)
    assert task["status"] == "queued"
    first, second = service.due()
    assert first <= second


def test_tasks__are_written_as_by_the_routes(service: Service) -> None:
    log = Path(service.env["NOTIFIER_LOG_FILE"])
    answer = service.post({"tasks": [BOB, ALICE | {"q": "a"}, ALICE | {"email": "c", "delay": 0.2}]}, many=True)
    assert answer.status == 202
    assert [task["name"] for task in json.loads(answer.body)["tasks"]] == [
        "notification for bob",
        "message to alice",
        "message to c",
    ]
    with queue_workers(env=service.env, output=service.folder / "queue-output"):
        wait_until(lambda: service.queue.waiting() == 0, timeout=60, what="all is written")
    lines = "notification for bob: some notification", "found query: a\n", "message to alice\n", "message to c\n"
    assert all(line in log.read_text() for line in lines[1:])
    names = [name for (name,) in execute(service.env, "SELECT name FROM django_q_task WHERE success")]
    assert sorted(names) == ["message to alice", "message to c", "notification for bob"]


def test_bulk__of_a_thousand(service: Service) -> None:
    many = [ALICE | {"email": str(number), "delay": number % 3 * 100} for number in range(1000)]
    answer = service.post({"tasks": many}, many=True)
    tasks = json.loads(answer.body)["tasks"]
    assert answer.status == 202
    assert [task["name"] for task in tasks] == [f"message to {number}" for number in range(1000)]
    assert service.queue.waiting() == 1000
    due, expected = service.due(), [moment(task["due_at"]) for task in tasks]
    assert all(is_near(one, other) for one, other in zip(due, expected, strict=True))


def test_bulk__all_or_none(service: Service) -> None:
    answer = service.post({"tasks": [ALICE, BOB | {"email": ""}, ALICE | {"delay": "1"}, 5]}, many=True)
    assert answer.status == 422
    found = {tuple(problem["loc"]): problem["type"] for problem in json.loads(answer.body)["detail"]}
    assert found == {
        ("body", "tasks", 1, "email"): "string_too_short",
        ("body", "tasks", 2, "delay"): "float_type",
        ("body", "tasks", 3): "model_type",
    }
    assert service.queue.waiting() == 0


# What is refused.

REFUSED: dict[str, tuple[object, str, list[str]]] = {
    "no email": ({"program": "query"}, "missing", ["body", "email"]),
    "no program": ({"email": "a"}, "missing", ["body", "program"]),
    "another program": (ALICE | {"program": "query2"}, "literal_error", ["body", "program"]),
    "an email that is none": (ALICE | {"email": 1}, "string_type", ["body", "email"]),
    "null for an email": (ALICE | {"email": None}, "string_type", ["body", "email"]),
    "an empty email": (ALICE | {"email": ""}, "string_too_short", ["body", "email"]),
    "a slash": (ALICE | {"email": "a/b"}, "path_segment", ["body", "email"]),
    "a newline": (ALICE | {"email": "a\nb"}, "control_character", ["body", "email"]),
    "NUL": (ALICE | {"email": "\0"}, "control_character", ["body", "email"]),
    "NUL in q": (ALICE | {"q": "\0"}, "control_character", ["body", "q"]),
    "a q that is none": (ALICE | {"q": ["a"]}, "string_type", ["body", "q"]),
    "a delay in words": (ALICE | {"delay": "5"}, "float_type", ["body", "delay"]),
    "true for a delay": (ALICE | {"delay": True}, "float_type", ["body", "delay"]),
    "a delay below 0": (ALICE | {"delay": -0.1}, "greater_than_equal", ["body", "delay"]),
    "a delay of 11 years": (ALICE | {"delay": 86400 * 365.25 * 11}, "less_than_equal", ["body", "delay"]),
    "a moment in 11 years": (ALICE | {"at": "2100-01-01T00:00:00Z"}, "too_far_ahead", ["body", "at"]),
    "the last moment": (ALICE | {"at": "9999-12-31T23:59:59.999999-23:59"}, "too_far_ahead", ["body", "at"]),
    "a moment without a zone": (ALICE | {"at": "2026-01-01T00:00:00"}, "datetime_parsing", ["body", "at"]),
    "a day": (ALICE | {"at": "2026-01-01"}, "datetime_parsing", ["body", "at"]),
    "no day": (ALICE | {"at": "2026-02-30T00:00:00Z"}, "datetime_from_date_parsing", ["body", "at"]),
    "seconds since 1970": (ALICE | {"at": 1}, "datetime_type", ["body", "at"]),
    "the same in a string": (ALICE | {"at": "1"}, "datetime_parsing", ["body", "at"]),
    "both": (ALICE | {"at": "2026-01-01T00:00:00Z", "delay": 1}, "delay_and_at", ["body"]),
    "a list": ([ALICE], "model_type", ["body"]),
    "null": (None, "model_type", ["body"]),
    "no body": (b"", "json_invalid", ["body"]),
    "half a body": (b'{"program": "que', "json_invalid", ["body"]),
    "more than a body": (b'{"program": "query", "email": "a"} 1', "json_invalid", ["body"]),
    "bytes that are no UTF-8": (b'{"program": "query", "email": "\xff"}', "json_invalid", ["body"]),
    "UTF-16": (json.dumps(ALICE).encode("utf-16"), "json_invalid", ["body"]),
    "half a surrogate pair": (b'{"program": "query", "email": "\\ud800"}', "json_invalid", ["body"]),
    "NaN": (b'{"program": "query", "email": "a", "delay": NaN}', "finite_number", ["body", "delay"]),
    "infinity": (b'{"program": "query", "email": "a", "delay": 1e999}', "finite_number", ["body", "delay"]),
    "an endless number": (b'{"program": "query", "email": "a", "delay": %s}' % (b"9" * 5000), "json_invalid", ["body"]),
    "a deep list": (b"[" * 500_000, "json_invalid", ["body"]),
    "a deep object": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "json_invalid", ["body"]),
    "deep within": (b'{"program": "query", "email": %s}' % (b"[" * 200_000), "json_invalid", ["body"]),
    "not so deep": (b'{"program": "query", "email": %s%s}' % (b"[" * 150, b"]" * 150), "string_type", ["body", "email"]),
    "a million bytes": (ALICE | {"email": "a\n" + "a" * 1_000_000}, "control_character", ["body", "email"]),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_task__refused(service: Service, case: tuple[object, str, list[str]]) -> None:
    body, kind, loc = case
    answer = service.post(body)
    assert (answer.status, answer.headers["content-type"]) == (422, "application/json")
    problems = json.loads(answer.body, parse_constant=pytest.fail)["detail"]
    assert [(problem["type"], problem["loc"]) for problem in problems] == [(kind, loc)]
    assert problems[0].keys() >= {"type", "loc", "msg", "input"}
    assert service.queue.waiting() == 0


BULK: dict[str, tuple[object, str]] = {
    "none": ({"tasks": []}, "too_short"),
    "too many": ({"tasks": [ALICE] * 1001}, "too_long"),
    "very many": (b'{"tasks": [%s0]}' % (b"0," * 500_000), "too_long"),
    "no list": ({"tasks": {}}, "list_type"),
    "nothing": ({}, "missing"),
}


@pytest.mark.parametrize("case", BULK.values(), ids=BULK.keys())
def test_bulk__refused(service: Service, case: tuple[object, str]) -> None:
    body, kind = case
    answer = service.post(body, many=True)
    (problem,) = json.loads(answer.body)["detail"]
    assert (answer.status, problem["type"], problem["loc"]) == (422, kind, ["body", "tasks"])
    assert service.queue.waiting() == 0


def test_bulk__a_thousand_times_wrong(service: Service) -> None:
    answer = service.post({"tasks": [{"program": 1, "email": "\0" * 100}] * 1000}, many=True)
    assert answer.status == 422
    assert len(json.loads(answer.body)["detail"]) == 2000


def test_task__a_name_twice(service: Service) -> None:
    """The last one counts, as for most readers of JSON."""
    answer = service.post(b'{"program": "query", "email": "a", "email": "b"}')
    assert json.loads(answer.body)["name"] == "message to b"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json; charset=utf-8", 202),
        ("Application/JSON", 202),
        ("application/jsonp", 415),
        ("application/x-www-form-urlencoded", 415),
        ("text/plain", 415),
        ("", 415),
    ],
)
def test_content_type(service: Service, kind: str, status: int) -> None:
    answer = service.post(ALICE, Content_Type=kind)
    assert answer.status == status
    if status == 415:
        assert json.loads(answer.body) == {"detail": "Unsupported Media Type"}


def test_body__too_large(service: Service) -> None:
    with Connection(service.port) as connection:
        headers = {"Content-Type": "application/json"}
        body = json.dumps(ALICE | {"email": "a" * (1 << 20)}).encode()
        assert connection.ask(Request(target="/tasks", headers=headers, body=body)).status == 413
    assert service.queue.waiting() == 0


@pytest.mark.parametrize("target", ["/tasks", "/tasks/bulk"])
def test_method__not_allowed(service: Service, target: str) -> None:
    answer = ask(service.port, Request(target=target, method="PUT"))
    assert answer.status == 405
    assert "POST" in answer.headers["allow"]


# The same again.


def repeated(answers: list[Answer]) -> Mapping[str, Any]:
    """The body of answers that must all be the same."""
    assert len({(answer.status, answer.body, answer.headers.get("location")) for answer in answers}) == 1
    return dict(json.loads(answers[0].body))


@pytest.mark.parametrize("late", [{}, {"delay": 100}, {"at": "2027-01-01T00:00:00+01:00"}], ids=["now", "delay", "at"])
def test_key__of_a_task(service: Service, late: dict[str, Any]) -> None:
    with ThreadPoolExecutor(10) as clients:
        answers = list(clients.map(lambda _: service.post(ALICE | late, Idempotency_Key="one"), range(10)))
    task = repeated(answers)
    assert answers[0].status == 202
    assert service.queue.waiting() == 1
    execute(service.env, "DELETE FROM django_q_ormq")  # it may have ended, and be gone: the answer is the same
    assert repeated([answers[0], service.post(ALICE | late, Idempotency_Key="one")])["id"] == task["id"]
    assert service.queue.waiting() == 0
    for other in (ALICE | late | {"q": "a"}, json.dumps(ALICE | late).encode() + b" "):
        refused = service.post(other, Idempotency_Key="one")
        assert (refused.status, json.loads(refused.body)["detail"][0]["type"]) == (422, "idempotency_key_reused")
    assert service.post({"tasks": [ALICE]}, many=True, Idempotency_Key="one").status == 202, "another route"


def test_key__of_many_tasks(service: Service) -> None:
    body = {"tasks": [ALICE, BOB | {"delay": 5}]}
    tasks = repeated([service.post(body, many=True, Idempotency_Key="one") for _ in range(3)])["tasks"]
    assert len({task["id"] for task in tasks}) == 2
    assert service.queue.waiting() == 2


def test_key__of_a_request_that_was_refused(service: Service) -> None:
    assert service.post(ALICE | {"email": ""}, Idempotency_Key="one").status == 422
    assert service.post(ALICE, Idempotency_Key="one").status == 202
    both = json.loads(service.post({"program": "query"}, Idempotency_Key="a" * 256).body)["detail"]
    assert [problem["loc"] for problem in both] == [["header", "idempotency-key"], ["body", "email"]]


# Trouble.


def test_queue__locked(service: Service) -> None:
    """An honest no, soon, and others are answered meanwhile."""
    with service.queue.locked():
        with ThreadPoolExecutor(6) as clients:
            waiting = [clients.submit(service.post, ALICE, Idempotency_Key=str(number)) for number in range(6)]
            assert ask(service.port, Request(target="/", method="GET")).status == 404
            answers = [client.result(30) for client in waiting]
        assert {answer.status for answer in answers} == {503}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    for number in range(6):
        wait_until(lambda: service.post(ALICE, Idempotency_Key=str(number)).status == 202, what="it heals")  # noqa: B023
    assert service.queue.waiting() == 6


@selection.on_postgresql
def test_delay__by_the_clock_that_hosts_share(service: Service) -> None:
    assert environment.DATABASE == "postgresql"
    task = json.loads(service.post(ALICE | {"delay": 100}).body)
    ((there,),) = execute(service.env, "SELECT clock_timestamp()")
    assert abs(moment(task["due_at"]) - there - 100 * SECOND) < 20 * SECOND
