"""notifier_project/web.py: what a connection may do, and for how long. In this process, on a real socket."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvicorn

from notifier_project import web

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers after a while when the path says so."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def connected(client: Client) -> bytes:
    """What a client returns that has a connection to a server with our protocol."""

    async def serve() -> bytes:
        config = uvicorn.Config(application, host="127.0.0.1", port=0, http=web.Protocol, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return await asyncio.wait_for(client(reader, writer), timeout=10)
            finally:
                writer.close()
        finally:
            await server.shutdown()

    return asyncio.run(serve())


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE", 0.2)


@pytest.mark.parametrize("sent", [b"", REQUEST[:20]], ids=["nothing", "half a request"])
def test_connection__gets_nowhere(sent: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(sent)
        return await reader.read()  # until the server closes it

    assert connected(client) == b""


def test_connection__half_a_body_after_the_answer() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"five.")
        return answer + await reader.read()

    assert connected(client).startswith(b"HTTP/1.1 204")


def test_connection__waits_for_a_slow_answer() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(REQUEST.replace(b"/ ", b"/slow ", 1))
        return await reader.readuntil(b"\r\n\r\n")

    assert connected(client).startswith(b"HTTP/1.1 204")


def test_connection__goes_on_with_requests() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        answers = b""
        for _ in range(8):
            writer.write(REQUEST)
            answers += await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.1)
        return answers

    assert connected(client).count(b"HTTP/1.1 204") == 8


@pytest.mark.parametrize("before", [b"", b"\r\n"], ids=["at once", "after an empty line"])
@pytest.mark.parametrize("method", [b"GET", b"BREW"])
def test_connection__any_method(method: bytes, before: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write((b"" if method == b"BREW" else before) + REQUEST.replace(b"GET", method, 1))
        return await reader.readuntil(b"\r\n\r\n")

    assert connected(client).startswith(b"HTTP/1.1 204")


def test_connection__endless_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE", 30.0)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(REQUEST[:-2])
        for number in range(3 * web.LONGEST_HEAD // 1000):
            writer.write(b"X-%d: %s\r\n" % (number, b"x" * 1000))
        with suppress(ConnectionError):  # closed before it had read all, it may reset the connection, and its answer is lost
            return await reader.read()
        return b""

    assert connected(client)[:12] in (b"HTTP/1.1 400", b"")
