"""So many POSTs over several kept connections: wrk knows a duration only, and no number."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

PAUSE = 0.005  # seconds between two connections that are opened: at once, one of two processes may get them all


@dataclass(frozen=True, kw_only=True)
class Posts:
    """What came of them. Times are of the wall clock."""

    began: float
    answered: int  # with 200
    seconds: float  # until the last answer


def post(port: int, path: str, *, count: int, connections: int = 32) -> Posts:
    """POST to `path`, in which {} is each one's number. Before the clock runs, each connection has had an answer (a 404)."""
    return asyncio.run(_post(port, path, count, connections))


async def _post(port: int, path: str, count: int, connections: int) -> Posts:
    opened = []
    for _ in range(connections):
        opened.append(_Connection(*await asyncio.open_connection("127.0.0.1", port)))
        await asyncio.sleep(PAUSE)
    await asyncio.gather(*(connection.ask("POST", "/nothing") for connection in opened))
    numbers = iter(range(count))
    began = time.time()
    answered = sum(await asyncio.gather(*(connection.post(path, numbers) for connection in opened)))
    seconds = time.time() - began
    for connection in opened:
        connection.close()
    return Posts(began=began, answered=answered, seconds=seconds)


class _Connection:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, path: str, numbers: Iterator[int]) -> int:
        """Post one after the other, as long as there are numbers; return how many were answered with 200."""
        answered = 0
        for number in numbers:
            answered += b" 200 " in await self.ask("POST", path.format(number))
        return answered

    async def ask(self, method: str, path: str) -> bytes:
        """Send a request; return the answer's first line."""
        self._writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *headers = head.lower().splitlines()
        length = next(int(line.split(b":")[1]) for line in headers if line.startswith(b"content-length:"))
        await self._reader.readexactly(length)
        return first

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
