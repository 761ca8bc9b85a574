"""A web process: uvicorn, on a socket that all web processes share."""

import asyncio
import functools
import os
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from logging import getLogger

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from notifier_project import settings
from notifier_project.service.serve import listen

logger = getLogger(__name__)

# The methods that uvicorn's fast parser knows. A client may send any other (RFC 9110, section 9.1), and gets a 405.
METHODS = (b"POST ", b"GET ", b"HEAD ", b"OPTIONS ", b"PUT ", b"PATCH ", b"DELETE ", b"TRACE ", b"CONNECT ")

# Bytes of a request's line and headers, after the first chunk. uvicorn's fast parser has no limit, and gets slow.
HEAD_LIMIT = 256 * 1024
HEAD_WAIT_SECONDS = 30.0  # for a client to send the line and headers of its first, or its next, request

SHARE_PAUSE_SECONDS = 0.001  # for other processes to accept connections
TOO_MANY_FILES_PAUSE_SECONDS = 1.0  # before the next try when too many files are open: asyncio's ACCEPT_RETRY_DELAY

# How long a stop waits for requests, unless the tasks' grace is shorter. A request that takes longer has a slow client.
STOP_WAIT_SECONDS = 3

LIFE_SECONDS = 0.5  # between two signs of life; the parent kills a process that gives none for 10 s


class Protocol(HttpToolsProtocol):
    """uvicorn's fast protocol, with limits. Connections that begin with an unusual method get the thorough one."""

    has_begun = False
    head_size: int | None = 0  # bytes of the request's head so far; None: the head is complete
    heads = 0  # how many heads were complete
    heads_before = 0  # how many were complete at the last check
    look: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time that the client has for its request."""
        super().connection_made(transport)
        self.look = self.loop.call_later(HEAD_WAIT_SECONDS, self.close_if_stuck)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer: the client is gone."""
        self.look.cancel()
        super().connection_lost(exc)

    def close_if_stuck(self) -> None:
        """Close the connection if it gets no response and no request's head has become complete since the last check."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self.heads == self.heads_before and not is_answering:
            self.transport.close()
            return
        self.heads_before = self.heads
        self.look = self.loop.call_later(HEAD_WAIT_SECONDS, self.close_if_stuck)

    def on_message_begin(self) -> None:
        """Count the bytes of a new request's head."""
        self.head_size = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The request's line and headers are complete."""
        self.head_size = None
        self.heads += 1
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse the client's data, unless it is too long or for the thorough protocol."""
        if not self.has_begun and not data.lstrip(b"\r\n").startswith(METHODS):
            self.hand_over(data)
            return
        self.has_begun = True
        if self.head_size is not None:
            self.head_size += len(data)
            if self.head_size > HEAD_LIMIT:
                self.send_400_response("The request's line and headers are too long.")
                return
        super().data_received(data)

    def hand_over(self, data: bytes) -> None:
        """Continue with the thorough protocol, which has limits of its own."""
        self.look.cancel()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        thorough = H11Protocol(self.config, self.server_state, self.app_state, self.loop)
        self.transport.set_protocol(thorough)
        thorough.connection_made(self.transport)
        thorough.data_received(data)


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
        self._share = 1  # connections to accept at a time: one more after each pause, until none is waiting
        self._connecting: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._loop.add_reader(listener, self._take)

    def _take(self) -> None:
        has_some = bool(self._connections or self._connecting)
        try:
            for _ in range(self._share):
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
        await asyncio.gather(*self._connecting, return_exceptions=True)


class Server(uvicorn.Server):
    """uvicorn's server, with `Listener` instead of the event loop's server."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the given sockets."""
        await super().startup(sockets=[])
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
        for listener in self.listeners:
            await listener.close()
        await super().shutdown(sockets)


def main() -> None:
    """Serve until SIGTERM, on the socket whose descriptor WEB_SOCKET names; without one, on a socket of its own."""
    config = uvicorn.Config(
        "notifier_project.asgi:application",
        http=Protocol,
        ws="none",
        lifespan="off",
        proxy_headers=False,  # Django reads them, if NOTIFIER_HTTPS says that they can be trusted
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=min(STOP_WAIT_SECONDS, settings.NOTIFIER_STOP_GRACE),
    )
    inherited = os.environ.pop("WEB_SOCKET", None)
    listener = socket.socket(fileno=int(inherited)) if inherited else listen(settings.HOST, settings.PORT)
    listener.set_inheritable(False)
    Server(config).run([listener])


if __name__ == "__main__":
    main()
