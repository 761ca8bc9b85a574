"""The client in docs/examples, and the lines with `curl` in docs/http.md: they do what they say, with a real service."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from notifications.openapi.document import document
from tests.support import fuzz, selection
from tests.support.processes import PROJECT

pytestmark = selection.slow_on_postgresql

CLIENT = PROJECT / "docs/examples/notifier_client.py"
PAGE = (PROJECT / "docs/http.md").read_text()
ID = re.compile("[0-9a-f]{32}")


def run(port: int, *words: str, token: str = fuzz.TOKEN, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the client, with the standard library alone."""
    return subprocess.run(
        [sys.executable, "-I", "-S", CLIENT, "--url", f"http://127.0.0.1:{port}", *words],
        env={"NOTIFIER_TOKEN": token} if token else {},
        input=given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A service that wants a token."""
    with fuzz.target(tmp_path_factory.mktemp("service"), tokens=True) as target:
        yield target.port


def said(port: int, *words: str, given: str = "") -> Any:
    """The JSON that the client prints."""
    result = run(port, *words, given=given)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_client__sends_and_waits(port: int) -> None:
    task_id = run(port, "send", "alice@example.com", "-q", "hello").stdout.strip()
    assert ID.fullmatch(task_id)
    task = said(port, "wait", task_id)
    assert (task["id"], task["status"], task["name"]) == (task_id, "succeeded", "message to alice@example.com")


def test_client__with_the_same_key(port: int) -> None:
    first, again, other = (run(port, "send", "bob", "--key", key).stdout for key in ("a", "a", "b"))
    assert first == again != other
    refused = run(port, "send", "carol", "--key", "a")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("422: ")


def test_client__acts_on_a_task(port: int) -> None:
    task_id = said(port, "queue", "dave", "--delay", "3600")["id"]
    assert said(port, "show", task_id)["status"] == "scheduled"
    assert said(port, "cancel", task_id)["status"] == "cancelled"
    assert run(port, "wait", task_id).returncode == 1, "it did not succeed"
    assert said(port, "retry", task_id)["id"] == task_id
    assert said(port, "wait", task_id)["status"] == "succeeded"
    assert run(port, "delete", task_id).returncode == 0
    assert run(port, "show", task_id).stderr.startswith("404: ")


def test_client__runs_a_task_now(port: int) -> None:
    task_id = said(port, "queue", "dave", "--at", "2030-01-31T12:00:00Z")["id"]
    assert run(port, "wait", task_id, "--seconds", "0.1").stderr.startswith(f"{task_id} is still scheduled")
    said(port, "run-now", task_id)
    assert said(port, "wait", task_id)["status"] == "succeeded"


def test_client__queues_many_and_lists_them(port: int) -> None:
    given = "\n".join(json.dumps({"program": "query", "email": f"erin-{number}", "delay": 3600}) for number in range(3))
    queued = [json.loads(line) for line in run(port, "bulk", "-", given=given).stdout.splitlines()]
    listed = [json.loads(line) for line in run(port, "list", "--status", "scheduled", "--most", "3").stdout.splitlines()]
    assert {task["name"] for task in queued} == {f"message to erin-{number}" for number in range(3)}
    assert {task["id"] for task in listed} == {task["id"] for task in queued}


@selection.once
def test_client__without_a_token(port: int) -> None:
    result = run(port, "list", token="")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("401: ")


@selection.once
def test_client__helps() -> None:
    result = run(0, "--help")
    assert result.returncode == 0
    assert "usage: notifier_client.py" in result.stdout
    assert run(0, "queue", "--help").returncode == 0


class Moody(BaseHTTPRequestHandler):
    """Answers 503, hangs up, answers 429, and then 200; it notes the keys."""

    server: "MoodyServer"

    def do_POST(self) -> None:
        """Answer in the mood that it is in."""
        self.server.keys.append(self.headers["Idempotency-Key"])
        mood = len(self.server.keys)
        if mood == 2:
            self.close_connection = True
            return
        self.send_response({1: 503, 3: 429}.get(mood, 200))
        self.send_header("Retry-After", "0" if mood == 1 else "Wed, 21 Oct 2015 07:28:00 GMT")
        self.send_header("Task-Id", "0" * 32)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name is given
        """Say nothing."""


class MoodyServer(ThreadingHTTPServer):
    """Its handler is moody."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Moody)
        self.keys: list[str] = []


@contextmanager
def moody() -> Iterator[MoodyServer]:
    """A running one."""
    with MoodyServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@selection.once
def test_client__repeats_with_the_same_key() -> None:
    with moody() as server:
        result = run(server.server_port, "send", "alice")
    assert (result.returncode, result.stdout) == (0, "0" * 32 + "\n"), result.stderr
    assert len(server.keys) == 4
    assert len(set(server.keys)) == 1
    assert server.keys[0]


@selection.once
def test_client__gives_up() -> None:
    with moody() as server:
        result = run(server.server_port, "--patience", "0.1", "send", "alice")
    assert result.returncode == 1
    assert result.stderr.startswith("503: ")
    assert len(server.keys) == 1


# The lines with curl.

# The function runs curl with a token, and notes on the error output what was asked for and how that was answered.
NOTING = """
curl() {
    case "$*" in *Authorization*) ;; *) set -- -H "Authorization: Bearer $TOKEN" "$@" ;; esac
    command curl --max-time 60 --write-out '%{stderr}%{method} %{url_effective} %{http_code}\\n' "$@"
}
set -eu
"""


def examples() -> str:
    """All commands of the page, in their order."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


def test_page__its_curl_lines_work(port: int, tmp_path: Path) -> None:
    commands = NOTING + examples().replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    result = subprocess.run(
        [selection.installed("bash", "bash"), "-c", commands],
        env={"TOKEN": fuzz.TOKEN, "PATH": str(Path(selection.installed("curl", "curl")).parent) + ":/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    noted = re.findall(r"^([A-Z]+) http://127.0.0.1:\d+(/[^\s?]*)\S* (\d+)$", result.stderr, re.MULTILINE)
    assert len(noted) == len(re.findall(r"\bcurl ", examples())), result.stderr
    # The task of the examples has ended when they act on it: 409.
    assert {status for _, _, status in noted} <= {"200", "202", "204", "409"}, result.stderr
    asked = {(method.lower(), ID.sub("{id}", path)) for method, path, _ in noted}
    asked = {(method, re.sub("(send-notification)/.*", r"\1/{email}", path)) for method, path in asked}
    described = {(method, path) for path, item in document("query")["paths"].items() for method in item}
    assert described - asked == set()
