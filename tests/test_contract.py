"""Notifier and the FastAPI programs that it stands in for get the same bytes: answers and logs must be the same.

The programs are in tests/support/fastapi_programs; all servers are real processes. At the end, what differs on purpose.
"""

import json
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.support import selection
from tests.support.contract_cases import CONTROL_CHARACTERS, EMAILS, NOWHERE, QUERIES, REQUESTS, SLASHES
from tests.support.installations import QueueTable, new_installation, queue_table
from tests.support.processes import BIN, PROJECT, free_port, is_listening, manage, queue_workers, running, wait_until, web
from tests.support.raw_http import Answer, Connection, Request

pytestmark = selection.slow_on_postgresql

COMPARED = {"content-type", "content-length", "transfer-encoding", "connection", "allow", "location", "set-cookie", "vary"}


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a program listens, and what it writes."""

    port: int
    log: Path
    output: Path

    def written(self) -> str | None:
        """The log's text, None when there is no log."""
        return self.log.read_bytes().decode() if self.log.exists() else None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A FastAPI program, and Notifier in its place."""

    program: str
    prefix: str
    model: Server
    ours: Server
    queue: QueueTable
    accepted_before: int

    def text(self, email: str, q: str | None = None) -> str:
        """What a request writes."""
        if self.program == "basic":
            return f"notification for {email}: some notification"
        return (f"found query: {q}\n" if q else "") + f"message to {email}\n"

    def ask(self, request: Request) -> Answer:
        """The answer to a request, the same from both; unless it says that the connection ends, another request follows."""
        theirs, ours = self._ask(self.model.port, request), self._ask(self.ours.port, request, prefix=self.prefix)
        assert self.comparable(ours) == self.comparable(theirs)
        assert ours.headers.keys() - theirs.headers.keys() == ({"task-id"} if theirs.status == 200 else set())
        assert not theirs.headers.keys() - ours.headers.keys()
        return theirs

    def _ask(self, port: int, request: Request, *, prefix: str = "") -> Answer:
        with Connection(port) as connection:
            answer = connection.ask(request, prefix=prefix)
            if answer.headers.get("connection") != "close":
                assert connection.ask(Request(target="/", method="GET")).status == 404
            return answer

    def comparable(self, answer: Answer) -> tuple[object, ...]:
        """What clients see of an answer; Notifier's prefix is taken out of redirects."""
        headers = {name: value.replace(f"{self.prefix}/", "/") for name, value in answer.headers.items() if name in COMPARED}
        return answer.status, headers, answer.body

    def expect_log(self, text: str | None, *, entries: int = 1) -> None:
        """Both logs end up with this text, None for no log; Notifier has queued so many entries since the test began."""
        wait_until(lambda: self.model.written() == text, what=f"FastAPI has written {text!r:.80}")
        assert self.queue.accepted() - self.accepted_before == entries
        self.wait_for_queue()
        assert self.ours.written() == text

    def wait_for_queue(self) -> None:
        """Return when Notifier has done all that it accepted."""
        wait_until(lambda: self.queue.waiting() == 0, what="the queue is empty")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Server], QueueTable]]:
    """Both programs, and one installation of Notifier that is served with either program at its root."""
    found = {}
    with ExitStack() as stack:
        for program in ("basic", "query"):
            folder = tmp_path_factory.mktemp(program)
            found[f"fastapi {program}"] = server = Server(port=free_port(), log=folder / "log.txt", output=folder / "output")
            command: list[str | Path] = [BIN / "uvicorn", "--app-dir", PROJECT, "--http", "h11", "--port", str(server.port)]
            # By default h11 refuses a head of more than 16 KiB, but only when it does not arrive in one piece.
            command += ["--h11-max-incomplete-event-size", "65536"]
            command += [f"tests.support.fastapi_programs.{program}:app"]
            stack.enter_context(running(command, env={}, output=server.output, cwd=folder))
        folder = tmp_path_factory.mktemp("notifier")
        env = stack.enter_context(new_installation(folder))
        manage("migrate", "--verbosity=0", env=env)
        stack.enter_context(queue_workers(env=env, output=folder / "queue-output"))
        for root in ("basic", "query"):
            found[root] = server = Server(port=free_port(), log=folder / "log.txt", output=folder / root)
            stack.enter_context(web(env=env | {"NOTIFIER_ROOT": root}, port=server.port, output=server.output))
        for server in found.values():
            wait_until(partial(is_listening, server.port), what="all servers listen")
        yield found, stack.enter_context(queue_table(env))


@pytest.fixture(
    params=[
        pytest.param(("query", "query", ""), id="query"),
        pytest.param(("basic", "basic", ""), id="basic"),
        # No matter which path a request came by, the database gets the same.
        pytest.param(("basic", "query", "/basic"), id="basic under its prefix", marks=selection.slow_on_postgresql),
        pytest.param(("basic", "basic", "/basic"), id="basic in both places", marks=selection.slow_on_postgresql),
    ],
)
def pair(request: pytest.FixtureRequest, servers: tuple[dict[str, Server], QueueTable]) -> Iterator[Pair]:
    """A program and its stand-in, with no log and an empty queue."""
    program, root, prefix = request.param
    found, queue = servers
    model, ours = found[f"fastapi {program}"], found[root]
    for server in (model, ours):
        if server.log.is_dir():  # a test that failed
            server.log.rmdir()
        server.log.unlink(missing_ok=True)
    pair = Pair(program=program, prefix=prefix, model=model, ours=ours, queue=queue, accepted_before=queue.accepted())
    yield pair
    pair.wait_for_queue()


in_place_of_query = pytest.mark.parametrize("pair", [("query", "query", "")], ids=["query"], indirect=True)
in_place_of_basic = pytest.mark.parametrize("pair", [("basic", "basic", "")], ids=["basic"], indirect=True)
in_place_of_each = pytest.mark.parametrize(
    "pair", [("query", "query", ""), ("basic", "basic", "")], ids=["query", "basic"], indirect=True
)


def cases(table: Mapping[str, object]) -> pytest.MarkDecorator:
    """A parameter `case` for each entry of a table, by its name."""
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


# As FastAPI does it.


@cases(EMAILS)
def test_email__any_segment(pair: Pair, case: tuple[str, str]) -> None:
    segment, email = case
    assert pair.ask(Request(target=f"/send-notification/{segment}")).status == 200
    pair.expect_log(pair.text(email))


@in_place_of_each
@cases(QUERIES)
def test_query(pair: Pair, case: tuple[str, str | None]) -> None:
    query, q = case
    assert pair.ask(Request(target=f"/send-notification/alice?{query}")).status == 200
    pair.expect_log(pair.text("alice", q))


def test_path__fixed_part_encoded(pair: Pair) -> None:
    assert pair.ask(Request(target="/send-%6eotification/alice")).status == 200
    pair.expect_log(pair.text("alice"))


@selection.slow_on_postgresql
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "OPTIONS"])
@cases(NOWHERE)
def test_path__nowhere(pair: Pair, case: str, method: str) -> None:
    answer = pair.ask(Request(target=case, method=method))
    assert (answer.status, answer.body) == (404, b"" if method == "HEAD" else b'{"detail":"Not Found"}')
    pair.expect_log(None, entries=0)


@selection.slow_on_postgresql
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "OPTIONS"])
@cases(SLASHES)
def test_trailing_slash(pair: Pair, case: tuple[str, str], method: str) -> None:
    given, location = case
    answer = pair.ask(Request(target=f"/send-notification/{given}", method=method))
    assert (answer.status, answer.body) == (307, b"")
    assert answer.headers["location"] == f"http://127.0.0.1/send-notification/{location}"
    pair.expect_log(None, entries=0)


@selection.slow_on_postgresql
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "post"])
def test_method__not_allowed(pair: Pair, method: str) -> None:
    answer = pair.ask(Request(target="/send-notification/alice?q=a", method=method, headers={"Content-Length": "0"}))
    assert (answer.status, answer.headers["allow"], answer.headers["content-length"]) == (405, "POST", "31")
    pair.expect_log(None, entries=0)


@cases(REQUESTS)
def test_success__whatever_comes_along(pair: Pair, case: Request) -> None:
    answer = pair.ask(case)
    message = "Message sent" if pair.program == "query" else "Notification sent in the background"
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.body == json.dumps({"message": message}, separators=(",", ":")).encode()
    pair.expect_log(pair.text("alice"))


@in_place_of_each
@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("POST", "alice", 200), ("POST", "alice/", 307), ("POST", "alice/x", 404), ("PUT", "alice", 405)],
)
def test_body__of_3_megabytes(pair: Pair, method: str, target: str, status: int) -> None:
    # No word on the connection after it: a body that is still being sent then may end it.
    request = Request(target=f"/send-notification/{target}", method=method, body=bytes(3_000_000))
    for server in (pair.model, pair.ours):
        with Connection(server.port) as connection:
            assert connection.ask(request).status == status
    pair.expect_log(pair.text("alice") if status == 200 else None, entries=int(status == 200))


@in_place_of_each
def test_body__comes_late(pair: Pair) -> None:
    for server in (pair.model, pair.ours):
        with Connection(server.port) as connection:
            assert connection.ask(Request(target="/send-notification/alice", headers={"Content-Length": "5"})).status == 200
            connection.send(b"at la")
            assert connection.ask(Request(target="/", method="GET")).status == 404
    pair.expect_log(pair.text("alice"))


@in_place_of_each
@pytest.mark.parametrize("method", ["POST", "post"])
def test_request__comes_in_pieces(pair: Pair, method: str) -> None:
    request = Request(target="/send-notification/alice", method=method, headers={"Content-Length": "0"})
    for server in (pair.model, pair.ours):
        with Connection(server.port) as connection:
            raw = request.encode()
            for piece in (raw[:2], raw[2:20], raw[20:-1], raw[-1:]):
                connection.send(piece)
                time.sleep(0.02)
            assert connection.receive(method).status == (200 if method == "POST" else 405)
            assert connection.ask(Request(target="/", method="GET")).status == 404
    pair.expect_log(pair.text("alice") if method == "POST" else None, entries=int(method == "POST"))


@in_place_of_each
@pytest.mark.parametrize("host", ["127.0.0.1", ""], ids=["with a host", "without a host"])
def test_http_1_0(pair: Pair, host: str) -> None:
    request = Request(target="/send-notification/alice", version="1.0", headers={"Host": host})
    for server in (pair.model, pair.ours):
        with Connection(server.port) as connection:
            assert connection.ask(request).status == 200
            with pytest.raises(ConnectionError):
                connection.receive()
    pair.expect_log(pair.text("alice"))


@in_place_of_each
def test_client__hangs_up_without_its_answer(pair: Pair) -> None:
    request = Request(target="/send-notification/alice?q=a").encode()
    with Connection(pair.model.port) as connection:
        connection.send(request)
    with Connection(pair.ours.port) as connection:
        connection.send(request)
        wait_until(lambda: pair.queue.accepted() > pair.accepted_before, what="the request is queued")
    pair.expect_log(pair.text("alice", "a"))


def several(pair: Pair, server: Server, ways: Callable[[int, list[bytes]], list[Answer]]) -> None:
    """Several requests at a time: all are answered, and each one's lines stand in the log once, in order."""
    requests = [Request(target=f"/send-notification/{number}?q={number}") for number in range(8)]
    assert [answer.status for answer in ways(server.port, [request.encode() for request in requests])] == [200] * 8
    texts = [pair.text(str(number), str(number)) for number in range(8)]
    if pair.program == "basic":
        pair.wait_for_queue()
        assert server.written() in texts
        return
    lines = [line for text in texts for line in text.splitlines()]
    wait_until(lambda: len((server.written() or "").splitlines()) == len(lines), what="all is written")
    written = (server.written() or "").splitlines()
    assert sorted(written) == sorted(lines)
    for found, message in zip(lines[::2], lines[1::2], strict=True):
        assert written.index(found) < written.index(message)


def pipelined(port: int, requests: list[bytes]) -> list[Answer]:
    """All on one connection, before the first answer."""
    with Connection(port) as connection:
        connection.send(b"".join(requests))
        return [connection.receive() for _ in requests]


def concurrent(port: int, requests: list[bytes]) -> list[Answer]:
    """Each on a connection of its own, before the first answer."""
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(port)) for _ in requests]
        for connection, request in zip(connections, requests, strict=True):
            connection.send(request)
        return [connection.receive() for connection in connections]


@in_place_of_each
@pytest.mark.parametrize("ways", [pipelined, concurrent])
def test_requests__several_at_a_time(pair: Pair, ways: Callable[[int, list[bytes]], list[Answer]]) -> None:
    several(pair, pair.ours, ways)
    if pair.program == "query":  # of replacements by FastAPI, nobody can say which was the last
        several(pair, pair.model, ways)
    assert pair.queue.accepted() - pair.accepted_before == 8


# The log between two requests.

MEANWHILE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda log: None,
    "deleted": lambda log: log.unlink(),
    "renamed": lambda log: log.rename(log.with_name("log.1")),
    "truncated": lambda log: log.write_bytes(b""),
    "left without a newline": lambda log: log.write_bytes(b"half a line"),
}


@in_place_of_each
@cases(MEANWHILE)
def test_log__between_two_requests(pair: Pair, case: Callable[[Path], object]) -> None:
    pair.ask(Request(target="/send-notification/alice-of-the-longer-name"))
    pair.expect_log(pair.text("alice-of-the-longer-name"))
    for server in (pair.model, pair.ours):
        case(server.log)
    left = (pair.ours.written() or "") if pair.program == "query" else ""
    pair.ask(Request(target="/send-notification/bob"))
    pair.expect_log(left + pair.text("bob"), entries=2)


def read_fifo(path: Path) -> str:
    """What the next writer writes, then hangs up."""
    fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        wait_until(lambda: select.select([fifo], [], [], 0)[0], what="somebody writes")
        os.set_blocking(fifo, True)
        return os.read(fifo, 4096).decode()
    finally:
        os.close(fifo)


@in_place_of_each
def test_answer__before_the_write(pair: Pair) -> None:
    for server in (pair.model, pair.ours):
        os.mkfifo(server.log)
        with Connection(server.port) as connection:
            assert connection.ask(Request(target="/send-notification/alice")).status == 200
            assert connection.ask(Request(target="/send-notification/alice", method="GET")).status == 405
    assert pair.queue.waiting() == 1
    for server in (pair.model, pair.ours):
        assert read_fifo(server.log) == pair.text("alice")
        server.log.unlink()


# FastAPI's own tests of these programs: tests/test_tutorial/test_background_tasks in its repository.


def wait_until_written(server: Server, text: str) -> None:
    """Return when the log holds this text."""
    wait_until(lambda: text in (server.written() or ""), what=f"the log holds {text!r}")


@in_place_of_basic
def test_tutorial001(pair: Pair) -> None:
    for server in (pair.model, pair.ours):
        response = httpx.post(f"http://127.0.0.1:{server.port}/send-notification/foo@example.com")
        assert response.status_code == 200, response.text
        assert response.json() == {"message": "Notification sent in the background"}
        wait_until_written(server, "notification for foo@example.com: some notification")


@in_place_of_query
def test_tutorial002(pair: Pair) -> None:
    for server in (pair.model, pair.ours):
        response = httpx.post(f"http://127.0.0.1:{server.port}/send-notification/foo@example.com?q=some-query")
        assert response.status_code == 200, response.text
        assert response.json() == {"message": "Message sent"}
        wait_until_written(server, "found query: some-query\nmessage to foo@example.com")


# What differs on purpose.


def refusal(loc: list[str], value: str) -> bytes:
    """The body of a 422, as FastAPI would write it."""
    message = "Value should have no control characters"
    problem = {"type": "control_character", "loc": loc, "msg": message, "input": value}
    return json.dumps({"detail": [problem]}, separators=(",", ":"), ensure_ascii=False).encode()


@cases(CONTROL_CHARACTERS)
def test_control_character__in_email(pair: Pair, case: str) -> None:
    request = Request(target=f"/send-notification/a{quote(case)}b")
    with Connection(pair.ours.port) as connection:
        answer = connection.ask(request, prefix=pair.prefix)
    assert (answer.status, answer.headers["content-type"]) == (422, "application/json")
    assert answer.body == refusal(["path", "email"], f"a{case}b")
    pair.expect_log(None, entries=0)


@in_place_of_query
@cases(CONTROL_CHARACTERS)
def test_control_character__in_query(pair: Pair, case: str) -> None:
    with Connection(pair.ours.port) as connection:
        answer = connection.ask(Request(target=f"/send-notification/alice?q=a&q={quote(case)}"))
    assert answer.status == 422
    assert answer.body == refusal(["query", "q"], case)
    pair.expect_log(None, entries=0)


@in_place_of_query
def test_control_character__in_both(pair: Pair) -> None:
    with Connection(pair.ours.port) as connection:
        answer = connection.ask(Request(target="/send-notification/%0A?q=%0D"))
    assert [problem["loc"] for problem in json.loads(answer.body)["detail"]] == [["path", "email"], ["query", "q"]]
    pair.expect_log(None, entries=0)


@in_place_of_basic
def test_control_character__in_a_query_that_nobody_reads(pair: Pair) -> None:
    assert pair.ask(Request(target="/send-notification/alice?q=%0A")).status == 200
    pair.expect_log(pair.text("alice"))


@in_place_of_each
def test_failed_write__done_when_it_can_be(pair: Pair) -> None:
    for server in (pair.model, pair.ours):
        server.log.mkdir()
        with Connection(server.port) as connection:
            assert connection.ask(Request(target="/send-notification/alice?q=a")).status == 200
    wait_until(lambda: "IsADirectoryError" in pair.model.output.read_text(), what="FastAPI has tried")
    assert pair.queue.waiting() == 1
    for server in (pair.model, pair.ours):
        server.log.rmdir()
    pair.wait_for_queue()
    assert pair.ours.written() == pair.text("alice", "a")
    assert pair.model.written() is None  # FastAPI has lost it


@selection.slow_on_postgresql
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "a b"])
@pytest.mark.parametrize("target", ["/send-notification/alice", "/send-notification/alice/", "/elsewhere"])
@in_place_of_query
def test_host__foreign(pair: Pair, target: str, host: str) -> None:
    with Connection(pair.ours.port) as connection:
        answer = connection.ask(Request(target=target, headers={"Host": host}))
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert answer.body == b'{"detail":"Bad Request"}'
    pair.expect_log(None, entries=0)


def test_trailing_slash__per_cent_stays_encoded(pair: Pair) -> None:
    # Starlette puts the decoded path into its redirect: its "%41" would be the email "A" to the client that follows it.
    request = Request(target="/send-notification/%2541/")
    with Connection(pair.ours.port) as ours, Connection(pair.model.port) as model:
        assert ours.ask(request, prefix=pair.prefix).headers["location"].endswith("/send-notification/%2541")
        assert model.ask(request).headers["location"].endswith("/send-notification/%41")
