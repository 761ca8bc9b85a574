"""So many POSTs over several kept connections: wrk knows a duration only, and opens all its connections at once.

As lean as Python lets it be, for it runs on the same cores as the server: some 50 µs a POST.
"""

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

PAUSE = 0.005  # seconds between two connections that are opened: at once, one of two processes may get them all
PATIENCE = 30.0  # seconds for an answer
LARGEST = 65536  # bytes of an answer


@dataclass(frozen=True, kw_only=True)
class Posts:
    """What came of them. Times are of the wall clock."""

    began: float
    answered: int  # with 200
    seconds: float  # until the last answer


def post(port: int, path: str, *, count: int, connections: int = 32) -> Posts:
    """POST to `path`, in which {} is each one's number. Before the clock runs, each connection has had an answer (a 404)."""
    opened = []
    for _ in range(connections):
        opened.append(socket.create_connection(("127.0.0.1", port)))
        opened[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        time.sleep(PAUSE)
    _ask(opened, [_request("/nothing")] * connections)
    requests = [_request(path.format(number)) for number in range(count)]
    began = time.time()
    answered = _ask(opened, requests)
    seconds = time.time() - began
    for connection in opened:
        connection.close()
    return Posts(began=began, answered=answered, seconds=seconds)


def _request(path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode()


def _ask(connections: Sequence[socket.socket], requests: Sequence[bytes]) -> int:
    """Send all, one at a time over each connection; return how many were answered with 200. Answers are JSON objects."""
    poll, by_descriptor = select.epoll(), {connection.fileno(): connection for connection in connections}
    answers = dict.fromkeys(by_descriptor, b"")
    left = iter(requests)
    for connection, request in zip(connections, left, strict=False):
        connection.sendall(request)
        poll.register(connection, select.EPOLLIN)
    open_answers, good = min(len(connections), len(requests)), 0
    while open_answers:
        events = poll.poll(PATIENCE)
        if not events:
            raise SystemExit(f"{open_answers} of {len(requests)} POSTs got no answer within {PATIENCE} s")
        for descriptor, _ in events:
            connection = by_descriptor[descriptor]
            if not (received := connection.recv(LARGEST)):
                raise SystemExit("The web server has closed a connection")
            answer = answers[descriptor] + received
            if not answer.endswith(b"}"):
                answers[descriptor] = answer
                continue
            good += answer.startswith(b"HTTP/1.1 200 ")
            answers[descriptor] = b""
            if request := next(left, b""):
                connection.sendall(request)
            else:
                open_answers -= 1
    poll.close()
    return good
