"""notifier_project/api.py: bodies, errors, threads. Over real HTTP, with views of the tests' own."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import selection
from tests.support.gate import detail, gate
from tests.support.installations import database, queue_table
from tests.support.processes import wait_until
from tests.support.raw_http import Connection, Request

pytestmark = selection.slow_on_postgresql

MEBIBYTE = 1 << 20
POST = Request(target="/send-notification/alice")


def chunked(body: bytes) -> bytes:
    """A POST whose body comes in chunks."""
    head = b"POST /tasks/tell HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [body[start : start + 50_000] for start in range(0, len(body), 50_000)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@selection.once
def test_body__reaches_the_view(installation: dict[str, str], tmp_path: Path) -> None:
    with gate(installation, tmp_path, migrated=False) as web, Connection(web.port) as client:
        for length in (0, 3, MEBIBYTE):
            answer = client.ask(Request(target="/tasks/tell", body=b"x" * length, headers={"Content-Type": "Text/X; a*=b''c"}))
            assert (answer.status, json.loads(answer.body)["length"]) == (200, length)
            assert json.loads(answer.body)["type"] == "text/x"
            client.send(chunked(b"y" * length))
            assert json.loads(client.receive().body)["length"] == length
        assert client.ask(Request(target="/tasks/tell", method="GET", body=b"abc")).status == 200


@selection.once
def test_body__too_large(installation: dict[str, str], tmp_path: Path) -> None:
    """The client has its answer while it still sends, and goes on with the same connection."""
    with gate(installation, tmp_path, migrated=False) as web, Connection(web.port, timeout=60) as client:
        for raw in (
            Request(target="/tasks/tell", body=b"x" * (MEBIBYTE + 1)).encode(),
            Request(target="/tasks/tell", body=b"x" * (4 * MEBIBYTE)).encode(),
            chunked(b"x" * (MEBIBYTE + 1)),
            chunked(b"x" * (4 * MEBIBYTE)),
        ):
            client.send(raw)
            answer = client.receive()
            assert (answer.status, detail(answer)) == (413, "Content Too Large")
            assert client.ask(Request(target="/tasks/tell", body=b"abc")).status == 200
        client.send(
            b"POST /tasks/tell HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000000000\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = client.receive()
        assert (answer.status, answer.headers["connection"]) == (413, "close")


@selection.once
def test_body__that_comes_slowly_holds_up_nobody(installation: dict[str, str], tmp_path: Path) -> None:
    with (
        gate(installation, tmp_path, GATE_BODY_SECONDS="2") as web,
        Connection(web.port) as slow,
        Connection(web.port) as quick,
    ):
        slow.send(b"POST /tasks/tell HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nfive.")
        with Connection(web.port) as gone:
            gone.send(b"POST /tasks/tell HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nfive.")
        for _ in range(1000):
            assert quick.ask(POST).status == 200
        answer = slow.receive()
        assert (answer.status, detail(answer), answer.headers["connection"]) == (408, "Request Timeout", "close")
    with queue_table(installation) as queue:
        assert queue.waiting() == 1000
    assert web.output.read_text() == ""


@selection.once
def test_body__all_of_them_have_a_bound(installation: dict[str, str], tmp_path: Path) -> None:
    """Beyond it a client is told to come again; the bodies before it go on, and what they held comes free."""
    head = b"POST /tasks/tell HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
    with gate(installation, tmp_path, migrated=False, GATE_MOST_HELD="1500000") as web:
        for _ in range(3):
            with Connection(web.port) as first, Connection(web.port) as second:
                first.send(head + b"x" * 999_999)
                wait_until(lambda: web.ask("POST", "/tasks/tell", b"y" * 600_000).status == 503, what="the first is held")
                second.send(head + b"y" * 999_999)
                answer = second.receive()
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                first.send(b"x")
                assert first.receive().status == 200
            wait_until(lambda: web.ask("POST", "/tasks/tell", b"y" * MEBIBYTE).status == 200, what="all are free")


@selection.once
def test_errors__in_json(installation: dict[str, str], tmp_path: Path) -> None:
    with gate(installation, tmp_path, migrated=False) as web:
        for method in ("PUT", "HEAD", "OPTIONS", "BREW"):
            answer = web.ask(method, "/tasks/tell")
            assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")
            assert method == "HEAD" or detail(answer) == "Method Not Allowed"
        assert detail(web.ask("GET", "/tasks/a/b/c")) == "Not Found"
        assert detail(web.ask("GET", "/tasks/tell", Host="evil.example")) == "Bad Request"
        failed = web.ask("GET", "/tasks/fail")
        assert (failed.status, detail(failed)) == (500, "Internal Server Error")
        assert "a secret of the view's" in web.output.read_text()
        assert web.ask("GET", "/tasks/leave").status == 500
        assert not web.ask("GET", "/tasks/tell", Cookie="sessionid=x").headers.keys() & {"set-cookie", "vary"}


@selection.once
def test_get__is_given_up_when_the_client_hangs_up(installation: dict[str, str], tmp_path: Path) -> None:
    with gate(installation, tmp_path, migrated=False) as web:
        with Connection(web.port) as client:
            client.send(Request(target="/tasks/wait", method="GET").encode())
            wait_until((tmp_path / "waiting").exists)
            assert not (tmp_path / "given up").exists()
        wait_until((tmp_path / "given up").exists)
        assert web.told()["length"] == 0
    assert web.output.read_text() == ""


def test_api__never_waits_behind_an_admin_page(installation: dict[str, str], tmp_path: Path) -> None:
    with gate(installation, tmp_path) as web, ThreadPoolExecutor(1) as other:
        page = other.submit(web.ask, "GET", "/admin/hang/")
        wait_until((tmp_path / "hanging").exists)
        assert web.ask("GET", "/tasks/look").body == b'"looked"'
        assert web.ask("POST", "/send-notification/alice").status == 200
        assert not page.done()
        (tmp_path / "go").touch()
        assert page.result(10).body == b'"went on"'


@selection.once
def test_threads__all_busy(installation: dict[str, str], tmp_path: Path) -> None:
    """Who finds no thread is told so within seconds; the two routes and asynchronous views go on."""
    with gate(installation, tmp_path, GATE_ANSWER="1") as web, ThreadPoolExecutor(4) as others:
        hanging = [others.submit(web.ask, "GET", "/tasks/hang") for _ in range(4)]
        wait_until(lambda: (tmp_path / "hanging").exists() and (tmp_path / "hanging").read_text() == "!!!!")
        answer = web.ask("GET", "/tasks/look")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "nothing was done" in detail(answer)
        assert web.ask("POST", "/send-notification/alice").status == 200
        assert web.ask("GET", "/tell").status == 200
        for held in hanging:
            assert "may be done all the same" in detail(held.result(10))
        (tmp_path / "go").touch()
        wait_until(lambda: web.ask("GET", "/tasks/look").status == 200, what="they are free again")
    assert "Traceback" not in web.output.read_text()


def test_threads__with_a_locked_database(installation: dict[str, str], tmp_path: Path) -> None:
    with gate(installation, tmp_path) as web, database(installation) as connection, ThreadPoolExecutor(6) as clients:
        assert web.ask("GET", "/tasks/write").status == 200
        with queue_table(installation) as queue, queue.locked():
            began = time.monotonic()
            writes = [clients.submit(web.ask, "GET", "/tasks/write") for _ in range(6)]
            assert web.ask("GET", "/tasks/tell").status in (200, 503)  # it needs a thread, too
            assert web.ask("GET", "/tell").status == 200
            assert web.ask("GET", "/").status == 404
            for write in writes:
                answer = write.result(20)
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert "again" in detail(answer)
            assert time.monotonic() - began < 15
        wait_until(lambda: web.ask("GET", "/tasks/write").status == 200, what="it heals")
        assert connection.execute("SELECT count(*) FROM django_q_ormq").fetchone()[0] >= 2


@selection.on_postgresql
def test_threads__locked_for_the_api_alone(installation: dict[str, str], tmp_path: Path) -> None:
    """The two routes go on."""
    with gate(installation, tmp_path) as web, database(installation) as connection, ThreadPoolExecutor(4) as clients:
        connection.execute("BEGIN; LOCK TABLE django_q_task IN ACCESS EXCLUSIVE MODE")
        busy = [clients.submit(web.ask, "GET", "/tasks/history") for _ in range(4)]
        for _ in range(20):
            assert web.ask("POST", "/send-notification/alice").status == 200
        assert [held.result(20).status for held in busy] == [503] * 4
        connection.execute("ROLLBACK")
