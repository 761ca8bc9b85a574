"""A web process: uvicorn, on a socket that all web processes share."""

import asyncio
import functools
import os
import resource
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from logging import Filter, LogRecord, getLogger

import uvicorn

from notifier_project import settings
from notifier_project.service.connections import Protocol, longest_waiting
from notifier_project.service.serve import listen

logger = getLogger(__name__)

SHARE_PAUSE_SECONDS = 0.001  # for other processes to accept connections
TOO_MANY_FILES_PAUSE_SECONDS = 1.0  # before the next try when too many files are open: asyncio's ACCEPT_RETRY_DELAY

# How long a stop waits for requests, unless the tasks' grace is shorter. A request that takes longer has a slow client.
STOP_WAIT_SECONDS = 3

# Descriptors that are left for everything but connections: databases, the log, the admin's files; a half of a low limit.
RESERVED = 128

FILES = 8192  # that a process may have open, if nobody allows more: often it is 1024, which some clients that wait use up

LIFE_SECONDS = 0.5  # between two signs of life; the parent kills a process that gives none for 10 s


class Listener:
    """Accepts connections a few at a time. While more are waiting, it pauses for other processes that share the socket.

    The event loop's own server accepts as long as connections are waiting: of 32 that came at once, one of two processes
    usually got all, before the other one was awake.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], connections: Collection[object]
    ) -> None:
        """`protocol`: makes the protocol of a connection. `connections`: the open ones."""
        self._loop = asyncio.get_running_loop()
        self._socket = listener
        self._protocol = protocol
        self._connections = connections
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(limit - RESERVED, limit // 2)  # open connections
        self._share = 1  # connections to accept at a time: one more after each pause, until none is waiting
        self._connecting: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._loop.add_reader(listener, self._take)

    def _take(self) -> None:
        has_some = bool(self._connections or self._connecting)
        try:
            for _ in range(self._share):
                if len(self._connections) + len(self._connecting) >= self._most and not self._make_room():
                    self._pause_for(TOO_MANY_FILES_PAUSE_SECONDS)
                    return
                connection, _address = self._socket.accept()
                connection.setblocking(False)
                self._connect(connection)
        except (BlockingIOError, ConnectionError):
            self._share = 1  # none is waiting: another process was faster, or a client is gone
        except OSError as error:
            logger.error("A connection can't be accepted: %s", error)  # too many open files
            self._pause_for(TOO_MANY_FILES_PAUSE_SECONDS)
        else:
            if has_some:
                self._share += 1
                self._pause_for(SHARE_PAUSE_SECONDS)

    def _make_room(self) -> bool:
        """Close the connection that has waited longest without a complete request; return whether there was one."""
        if waiting := longest_waiting(self._connections):
            waiting.close_now()
        return waiting is not None

    def _connect(self, connection: socket.socket) -> None:
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
        self._connecting.add(task)  # the loop keeps no reference to it
        task.add_done_callback(self._connecting.discard)

    def _pause_for(self, seconds: float) -> None:
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._loop.add_reader(self._socket, self._take)
        self._take()  # at once, to learn that no more are waiting and reset the share

    async def close(self) -> None:
        """Accept no more connections. Return when all accepted ones are open."""
        if self._pause:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        await asyncio.gather(*self._connecting, return_exceptions=True)


class Server(uvicorn.Server):
    """uvicorn's server, with `Listener` instead of the event loop's server."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the given sockets."""
        await super().startup(sockets=[])
        # What takes long by intent is to learn of a stop: `state` is in the scope of each request.
        self.stopping = self.lifespan.state["stopping"] = asyncio.Event()
        protocol = functools.partial(
            Protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        self.listeners = [Listener(listener, protocol, self.server_state.connections) for listener in sockets or ()]
        if signs := os.environ.get("SIGNS_OF_LIFE"):
            self.give_sign(int(signs))

    def give_sign(self, parent: int) -> None:
        """Show the parent, by this descriptor, that the event loop gets on; again and again."""
        with suppress(BlockingIOError):
            os.write(parent, b"!")
        asyncio.get_running_loop().call_later(LIFE_SECONDS, self.give_sign, parent)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and close the open ones once their requests are answered."""
        self.stopping.set()
        for listener in self.listeners:
            await listener.close()
        await super().shutdown(sockets)


def allow_files() -> None:
    """Allow as many open files as are needed, within what this process may allow itself (setrlimit(2))."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    if files != resource.RLIM_INFINITY and files < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class Clients(Filter):
    """Keeps out of the output what concerns only a client: that it sent no HTTP, or was gone before its answer."""

    def filter(self, record: LogRecord) -> bool:
        """Whether the record concerns somebody else."""
        error = record.exc_info[1] if record.exc_info else None
        is_gone = isinstance(error, RuntimeError) and "the handler is closed" in str(error)  # uvloop learns it before uvicorn
        return not is_gone and record.msg != "Invalid HTTP request received."


def main() -> None:
    """Serve until SIGTERM, on the socket whose descriptor WEB_SOCKET names; without one, on a socket of its own."""
    config = uvicorn.Config(
        "notifier_project.asgi:application",
        http=Protocol,
        ws="none",
        lifespan="off",
        proxy_headers=False,  # the application reads them: notifier_project/access/proxies.py
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=min(STOP_WAIT_SECONDS, settings.NOTIFIER_STOP_GRACE),
    )
    allow_files()
    getLogger("uvicorn.error").addFilter(Clients())
    inherited = os.environ.pop("WEB_SOCKET", None)
    listener = socket.socket(fileno=int(inherited)) if inherited else listen(settings.HOST, settings.PORT)
    listener.set_inheritable(False)
    Server(config).run([listener])


if __name__ == "__main__":
    main()
