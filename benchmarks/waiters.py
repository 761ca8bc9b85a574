"""Clients that wait for the end of a task, each with a connection of its own. Who is answered too early asks again."""

import json
import resource
import select
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPConnection
from types import TracebackType
from typing import Self

FILES = 8192  # open ones, if this process may have as many
PAUSE = 0.001  # seconds between two connections that are opened
ENDED = ("succeeded", "failed", "cancelled")
LARGEST = 65536  # bytes of an answer


def post(port: int, count: int) -> list[str]:
    """Queue so many tasks; return their ids."""
    connection, ids = HTTPConnection("127.0.0.1", port, timeout=30), []
    for number in range(count):
        connection.request("POST", f"/send-notification/waited-{number}")
        answer = connection.getresponse()
        answer.read()
        ids.append(answer.headers["Task-Id"])
    connection.close()
    return ids


@dataclass
class Waiters:
    """They wait from the beginning of a `with` to its end, in one thread, which sleeps until answers come."""

    port: int
    ids: Sequence[str]
    again: bool = True  # whether they ask again
    late: list[float] = field(default_factory=list)  # of each task that has ended: seconds from then to its answer
    early: int = 0  # answers that came before the end

    def __enter__(self) -> Self:
        """Have all of them ask."""
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files < FILES:
            resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if most < 0 else min(FILES, most), most))
        self._poll = select.epoll()
        self._told: set[str] = set()
        self._asking: dict[int, tuple[socket.socket, str]] = {}
        for task_id in self.ids:
            self._ask(task_id)
            time.sleep(PAUSE)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Hang up."""
        self._is_over.set()
        self._thread.join()
        for connection, _ in self._asking.values():
            connection.close()

    def wait(self, seconds: float) -> None:
        """Return when all tasks have ended, or the time is up."""
        until = time.monotonic() + seconds
        while len(self.late) < len(self.ids) and time.monotonic() < until:
            time.sleep(0.05)

    def _ask(self, task_id: str) -> None:
        """Ask over another connection."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        self._asking[connection.fileno()] = (connection, task_id)
        self._poll.register(connection, select.EPOLLIN)
        connection.sendall(_request(task_id))

    def _read(self) -> None:
        parts: dict[int, bytes] = {}
        while not self._is_over.is_set():
            for descriptor, _ in self._poll.poll(0.1):
                connection, task_id = self._asking[descriptor]
                received = b""
                with suppress(ConnectionError):
                    received = connection.recv(LARGEST)
                answer = parts.get(descriptor, b"") + received
                is_whole = answer.endswith(b"}")  # answers are JSON objects
                parts[descriptor] = b"" if is_whole else answer
                with suppress(ConnectionError):  # then the next look finds the connection closed
                    if not received:  # the server keeps no connection for long that is idle
                        parts[descriptor] = b""
                        self._poll.unregister(connection)
                        connection.close()
                        if self.again and task_id not in self._told:
                            self._ask(task_id)
                    elif is_whole and not self._note(answer, task_id) and self.again:
                        connection.sendall(_request(task_id))

    def _note(self, answer: bytes, task_id: str) -> bool:
        """Whether the task has ended."""
        task = json.loads(answer.partition(b"\r\n\r\n")[2])
        if task.get("status") in ENDED:
            self._told.add(task_id)
            self.late.append(time.time() - datetime.fromisoformat(task["finished_at"]).timestamp())
            return True
        self.early += 1
        return False


def _request(task_id: str) -> bytes:
    return f"GET /tasks/{task_id}?wait=30 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
