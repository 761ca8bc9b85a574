"""notifier_project/service/web.py: what a connection may do, and for how long. In this process, on a real socket."""

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import uvicorn

from notifier_project.service import connections, web

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers after a while when the path says so."""
    if scope["path"] == "/body":
        while (await receive()).get("more_body"):
            pass
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def connected(client: Client) -> bytes:
    """What a client returns that has a connection to a server with our protocol."""

    async def serve() -> bytes:
        config = uvicorn.Config(application, http=connections.Protocol, lifespan="off", log_level="critical")
        server = web.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        listener = socket.create_server(("127.0.0.1", 0))
        await server.startup([listener])
        try:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            try:
                return await asyncio.wait_for(client(reader, writer), timeout=10)
            finally:
                writer.close()
        finally:
            await server.shutdown([listener])

    return asyncio.run(serve())


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_WAIT_SECONDS", 0.2)


@pytest.mark.parametrize("sent", [b"", b"X", b"PO", b"BREW / HTTP/1.1\r\n", REQUEST[:20], REQUEST + b"P"], ids=ascii)
def test_connection__gets_nowhere(sent: bytes) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for byte in sent:
            writer.write(bytes([byte]))  # perhaps one at a time
            await asyncio.sleep(0)
        return await reader.read()  # until the server closes it

    assert connected(client).count(b"HTTP/1.1 204") == sent.count(b"\r\n\r\n")


def test_connection__half_a_body_after_the_answer() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"five.")
        return answer + await reader.read()

    assert connected(client).startswith(b"HTTP/1.1 204")


def test_connection__whose_body_never_comes() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nfive.")
        return await reader.read()

    assert not connected(client).startswith(b"HTTP/1.1 204")


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
    monkeypatch.setattr(connections, "HEAD_WAIT_SECONDS", 30.0)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(REQUEST[:-2])
        for number in range(3 * connections.HEAD_LIMIT // 1000):
            writer.write(b"X-%d: %s\r\n" % (number, b"x" * 1000))
        with suppress(ConnectionError):  # closed before it had read all, it may reset the connection, and its answer is lost
            return await reader.read()
        return b""

    assert connected(client)[:12] in (b"HTTP/1.1 400", b"")


class Process(web.Listener):
    """One of the processes that share a socket, as far as its connections go."""

    def __init__(self, shared: socket.socket) -> None:
        self.open_ones: set[Held] = set()
        self.end = shared.dup()
        super().__init__(self.end, functools.partial(Held, self.open_ones), self.open_ones)

    async def stop(self) -> None:
        """Take no more connections, and close those that are open."""
        await self.close()
        self.end.close()
        for held in self.open_ones:
            held.transport.close()


class Held(asyncio.Protocol):
    """A connection, among the open ones until it is closed."""

    transport: asyncio.BaseTransport

    def __init__(self, open_ones: "set[Held]") -> None:
        self.open_ones = open_ones

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = transport
        self.open_ones.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.open_ones.discard(self)


@pytest.fixture
def shared() -> Iterator[socket.socket]:
    """A socket that processes share."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


async def wait_until(is_so: Callable[[], bool]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.001)


def test_listener__leaves_connections_to_a_process_that_is_late(shared: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SHARE_PAUSE_SECONDS", 0.2)  # the late one is not that late, on a busy machine

    async def share() -> tuple[int, int]:
        early = Process(shared)
        for _ in range(100):  # turns of the loop
            await asyncio.sleep(0)
        late = Process(shared)
        await wait_until(lambda: len(early.open_ones) + len(late.open_ones) == 32)
        shares = len(early.open_ones), len(late.open_ones)
        for process in (early, late):
            await process.stop()
        await wait_until(lambda: not (early.open_ones or late.open_ones))
        return shares

    with ExitStack() as clients:
        for _ in range(32):
            clients.enter_context(socket.create_connection(shared.getsockname()))
        assert min(asyncio.run(share())) >= 8


def test_listener__does_not_pause_for_one_client(shared: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SHARE_PAUSE_SECONDS", 60.0)

    async def connect_in_turn() -> None:
        process = Process(shared)
        for _ in range(3):
            with socket.create_connection(shared.getsockname()):
                await wait_until(lambda: bool(process.open_ones))
            await wait_until(lambda: not process.open_ones)
        await process.stop()

    asyncio.run(connect_in_turn())
