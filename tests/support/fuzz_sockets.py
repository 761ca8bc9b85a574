"""Clients that send broken, huge, slow, half and pipelined requests, while a well-behaved one wants its answers in time."""

import asyncio
import random
import re
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET

from tests.support.raw_http import Request

STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")
ANSWER_SECONDS = 20.0  # that a complete request may wait for its answer, on a machine that does many other things

TARGETS = ["/send-notification/mallory?q=a", "/basic/send-notification/mallory", "/tasks", "/tasks/bulk", "/openapi.json"]
TARGETS += [f"/tasks/{'0' * 32}", f"/tasks/{'0' * 32}/cancel", "/tasks?limit=2", "/docs", "/admin/login/", "/"]
BODIES = [b"", b"{}", b'{"program": "query", "email": "mallory"}', b'{"tasks": []}', b'{"tasks": [' * 1000, b"[" * 100_000]


@dataclass(kw_only=True)
class Seen:
    """What the clients saw."""

    attacks: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # of the well-behaved client, in seconds


class Wire:
    """A connection of one of the clients."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random) -> None:
        self.reader, self.writer, self.chance = reader, writer, chance

    async def send(self, raw: bytes, *, pieces: int = 1, pause: float = 0.0) -> None:
        """Send this, perhaps in pieces. A server may have closed the connection: it may do that to such clients."""
        cuts = sorted(self.chance.randrange(len(raw) + 1) for _ in range(pieces - 1))
        with suppress(ConnectionError):
            for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
                self.writer.write(raw[start:end])
                await self.writer.drain()
                if pause:
                    await asyncio.sleep(self.chance.random() * pause)

    async def answers(self, most: int, *, within: float) -> list[int]:
        """The statuses of the answers that come within some seconds. Raises ValueError for what is no answer."""
        found: list[int] = []
        with suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            async with asyncio.timeout(within):
                while len(found) < most:
                    found += await self._answer()
        return found

    async def _answer(self) -> list[int]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        line = STATUS_LINE.match(head)
        if not line:
            raise ValueError(f"no status line: {head[:100]!r}")
        length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE)
        await self.reader.readexactly(int(length[1]) if length else 0)
        status = int(line[1])
        return [status] if status >= 200 else []

    def reset(self) -> None:
        """Break off: the server gets a reset, and no orderly end."""
        self.writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def right(chance: random.Random) -> Request:
    """A proper request, if perhaps one that is refused. It never ends the connection."""
    method = chance.choice(["GET", "POST", "POST", "DELETE"])
    body = chance.choice(BODIES[:4])
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    target = chance.choice(TARGETS)
    if target.startswith("/admin") or method == "DELETE":  # a form that is refused may end it
        method, body, headers = "GET", b"", {}
    return Request(target=target, method=method, headers=headers, body=body)


async def broken(wire: Wire) -> list[int]:
    """A request with wrong bytes in it."""
    chance = wire.chance
    raw = bytearray(right(chance).encode())
    for _ in range(chance.randint(1, 8)):
        place, way = chance.randrange(len(raw)), chance.random()
        if way < 0.4:
            raw[place] = chance.randrange(256)
        elif way < 0.7:
            raw[place:place] = chance.choice([b"\0", b"\r", b"\n", b"\r\n\r\n", b" " * 9, b"\xff\xfe", chance.randbytes(30)])
        else:
            del raw[place : place + chance.randint(1, 9)]
        raw = raw or bytearray(b"\0")
    await wire.send(bytes(raw))
    return await wire.answers(20, within=0.3)


LIES = [
    {"Content-Length": "5", "Transfer-Encoding": "chunked"},
    {"Content-Length": "-1"},
    {"Content-Length": "5, 6"},
    {"Content-Length": "9" * 30},
    {"Content-Length": "0x5"},
    {"Transfer-Encoding": "gzip, chunked"},
    {"Transfer-Encoding": "chunked", "Expect": "100-continue"},
    {"Expect": "200-maybe"},
    {"Host": "evil.example"},
    {"Host": "a\0b"},
    {"Upgrade": "h2c", "Connection": "Upgrade"},
    {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "x"},
    {"Authorization": "Bearer " + "x" * 10_000},
    {"Idempotency-Key": "\xff" * 300},
    {"Prefer": "wait=" + "9" * 1000},
    {"X-Forwarded-For": "," * 5000},
]


async def lying(wire: Wire) -> list[int]:
    """A request whose headers contradict themselves, or what follows."""
    lies = dict(wire.chance.choice(LIES))
    request = Request(target=wire.chance.choice(TARGETS), method="POST", headers=lies)
    await wire.send(
        request.encode() + wire.chance.choice([b"", b"FFFFFFFFFFFFFFFFFF\r\n", b"-5\r\nx", b"5\r\nhello\r\n0\r\n\r\n"])
    )
    return await wire.answers(5, within=0.3)


async def huge(wire: Wire) -> list[int]:
    """Too much: of the path, the headers, the body, or of chunks."""
    chance, size = wire.chance, wire.chance.choice([100_000, 1_200_000, 3_000_000])
    kind = chance.randrange(4)
    if kind == 0:
        request = Request(target="/tasks/" + "a" * size, method="GET").encode()
    elif kind == 1:
        headers = {f"X-{number}": "x" * 1000 for number in range(size // 1000)}
        request = Request(target="/tasks", method="GET", headers=headers).encode()
    elif kind == 2:
        target = chance.choice(TARGETS)
        request = Request(target=target, headers={"Content-Type": "application/json"}, body=b"[" * size).encode()
    else:
        headers = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
        request = Request(target=chance.choice(TARGETS), headers=headers).encode()
        request += b"".join(b"400\r\n%s\r\n" % (b" " * 1024) for _ in range(size // 1024)) + b"0\r\n\r\n"
    await wire.send(request)
    return await wire.answers(1, within=1.0)


async def slow(wire: Wire) -> list[int]:
    """A proper request, some bytes at a time. It is answered all the same."""
    request = right(wire.chance)
    await wire.send(request.encode(), pieces=60, pause=0.01)
    return await complete(wire, 1)


async def half(wire: Wire) -> list[int]:
    """A part of a request; then nothing for a while, or the connection breaks off."""
    raw = right(wire.chance).encode()
    await wire.send(raw[: wire.chance.randrange(len(raw))])
    await asyncio.sleep(wire.chance.random())
    if wire.chance.random() < 0.5:
        wire.reset()
    return []


async def hung_up(wire: Wire) -> list[int]:
    """Proper requests, and nobody who reads the answers."""
    await wire.send(b"".join(right(wire.chance).encode() for _ in range(wire.chance.randint(1, 50))))
    wire.reset()
    return []


async def pipelined(wire: Wire) -> list[int]:
    """Many proper requests at once: all are answered."""
    requests = [right(wire.chance) for _ in range(wire.chance.randint(2, 40))]
    await wire.send(b"".join(request.encode() for request in requests), pieces=wire.chance.randint(1, 9), pause=0.002)
    return await complete(wire, len(requests))


async def complete(wire: Wire, most: int) -> list[int]:
    """The statuses of so many answers. Raises ValueError if there are fewer."""
    statuses = await wire.answers(most, within=ANSWER_SECONDS)
    if len(statuses) < most:
        raise ValueError(f"{len(statuses)} answers to {most} proper requests")
    return statuses


ATTACKS: list[Callable[[Wire], Awaitable[list[int]]]] = [broken, lying, huge, slow, half, hung_up, pipelined]


async def attack(port: int, seen: Seen, chance: random.Random, until: float) -> None:
    """Attack again and again."""
    while time.monotonic() < until:
        kind = chance.choice(ATTACKS)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                statuses = await kind(Wire(reader, writer, chance))
            finally:
                writer.transport.abort()
        except (ValueError, OSError, TimeoutError) as error:
            seen.findings.append(f"{kind.__name__}: {error!r}")
            statuses = []
        seen.attacks[kind.__name__] += 1
        seen.statuses.update(statuses)


async def behave(port: int, seen: Seen, until: float) -> None:
    """Post and look, each time over a connection of its own, and note how long it takes."""
    chance = random.Random(0)
    while time.monotonic() < until:
        for request in (
            Request(target="/send-notification/bob"),
            Request(target=f"/tasks/{'0' * 32}", method="GET"),
        ):
            before = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                wire = Wire(reader, writer, chance)
                await wire.send(request.encode())
                statuses = await complete(wire, 1)
                writer.transport.abort()
            except (ValueError, OSError, TimeoutError) as error:
                seen.findings.append(f"well-behaved: {error!r}")
            else:
                if statuses != [404 if request.method == "GET" else 200]:
                    seen.findings.append(f"well-behaved: {request.target} {statuses}")
            seen.waits.append(time.monotonic() - before)
        await asyncio.sleep(0.01)


def fuzz(port: int, *, seconds: float, at_once: int, start: int) -> Seen:
    """Attack the service for some seconds, with so many clients. `start`: the first seed."""
    seen = Seen()

    async def run() -> None:
        until = time.monotonic() + seconds
        clients = [attack(port, seen, random.Random(start + number), until) for number in range(at_once)]
        await asyncio.gather(behave(port, seen, until), *clients)

    asyncio.run(run())
    seen.findings += [f"{times} answers of status {status}" for status, times in seen.statuses.items() if status == 500]
    return seen
