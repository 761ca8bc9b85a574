"""HTTP/1 as bytes on a socket. An ordinary client would correct its requests, and hide parts of the answers."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as it will be sent: nothing is encoded, corrected or added, except Host and Content-Length.

    A header with an empty value is left out.
    """

    target: str
    method: str = "POST"
    version: str = "1.1"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def encode(self, *, prefix: str = "") -> bytes:
        """The request's bytes, for a program under the path `prefix`."""
        length = {"Content-Length": str(len(self.body))} if self.body else {}
        headers = {"Host": "127.0.0.1", **length, **self.headers}
        lines = [f"{self.method} {prefix}{self.target} HTTP/{self.version}"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One TCP connection to 127.0.0.1. An operation that takes longer than `timeout` seconds raises TimeoutError."""

    def __init__(self, port: int, *, timeout: float = 10.0) -> None:
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._answers = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._answers.close()
        self._socket.close()

    def send(self, raw: bytes) -> None:
        """Send these bytes. A server that has answered already need not read them all."""
        with suppress(ConnectionResetError, BrokenPipeError):
            self._socket.sendall(raw)

    def receive(self, method: str = "POST") -> Answer:
        """The next final answer to a request with this method. Raises ConnectionError if there is none."""
        status, headers = self._head()
        while status < 200:  # "100 Continue" is not the answer yet
            status, headers = self._head()
        length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        return Answer(status=status, headers=headers, body=self._answers.read(length))

    def _head(self) -> tuple[int, dict[str, str]]:
        status_line = self._answers.readline()
        if not status_line:
            raise ConnectionError("the server closed the connection")
        headers: dict[str, str] = {}
        while line := self._answers.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = ", ".join(filter(None, (headers.get(name.lower()), value.strip())))
        return int(status_line.split()[1]), headers

    def ask(self, request: Request, *, prefix: str = "") -> Answer:
        """Send a request, return its answer."""
        self.send(request.encode(prefix=prefix))
        return self.receive(request.method)


def ask(port: int, request: Request, *, prefix: str = "") -> Answer:
    """Send a request on a connection of its own, return its answer."""
    with Connection(port) as connection:
        return connection.ask(request, prefix=prefix)
