"""notifier_project/asgi.py: who answers which path, behind another one too. In this process."""

import asyncio
from typing import Any

import pytest

from notifier_project import asgi
from notifier_project.access.gate import Gate
from notifier_project.clients import ClientsHandler
from tests.support import selection

pytestmark = selection.once

TASK = "/tasks/0123456789abcdef0123456789abcdef"
CLOSED = [("GET", "/tasks"), ("DELETE", TASK), *(("POST", f"{TASK}/{verb}") for verb in ("cancel", "retry", "run-now"))]


def status_of(method: str, path: str, root: str, application: Any = asgi.application) -> int:
    """The status of the answer to a request, from an ASGI server with this `root_path`."""
    scope = {"type": "http", "method": method, "path": root + path, "root_path": root, "query_string": b""}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope |= {"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 5), "server": ("localhost", 80), "scheme": "http"}
    arguments = (scope, send) if isinstance(application, ClientsHandler) else (scope, receive, send)
    asyncio.run(application(*arguments))
    return int(sent[0]["status"])


@pytest.mark.parametrize("root", ["", "/x", "/x/y", "/tasks"])
@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_api__is_closed_behind_any_path(root: str, method: str, path: str) -> None:
    assert status_of(method, path, root) == 403


@pytest.mark.parametrize("root", ["", "/x"])
def test_body__is_read_behind_any_path(root: str) -> None:
    assert status_of("POST", "/tasks", root) == 415


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_api__is_closed_even_if_the_clients_handler_is_asked(method: str, path: str) -> None:
    assert status_of(method, path, "", ClientsHandler(Gate())) == 403
