"""What a client may do on its connection, and for how long: uvicorn's protocols, with limits."""

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# The methods that uvicorn's fast parser knows. A client may send any other (RFC 9110, section 9.1), and gets a 405.
METHODS = (b"POST ", b"GET ", b"HEAD ", b"OPTIONS ", b"PUT ", b"PATCH ", b"DELETE ", b"TRACE ", b"CONNECT ")

# Bytes of a request's line and headers, after the first chunk. uvicorn's fast parser has no limit, and gets slow.
HEAD_LIMIT = 256 * 1024
HEAD_WAIT_SECONDS = 30.0  # for a client to send the line and headers of its first, or its next, request


class Patience(asyncio.Protocol):
    """Closes a connection whose client sends no complete head of a request for too long, whatever it sends."""

    loop: asyncio.AbstractEventLoop
    transport: Any
    cycle: Any  # the last request whose head was complete, with its answer
    connections: Any

    waits_since = 0.0  # when (the loop's time) it began to wait for a request
    look: asyncio.TimerHandle
    _cycle_before: object = None  # the request that was there at the last look

    def connection_made(self, transport: Any) -> None:
        """Start the time that the client has for its request."""
        super().connection_made(transport)
        self.waits_since = self.waits_since or self.loop.time()
        self.look = self.loop.call_at(self.waits_since + HEAD_WAIT_SECONDS, self.close_if_stuck)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer: the client is gone."""
        self.look.cancel()
        super().connection_lost(exc)

    @property
    def is_answering(self) -> bool:
        """Whether a request is complete, and its answer isn't."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def close_if_stuck(self) -> None:
        """Close the connection if it gets no response and no request's head has become complete since the last look."""
        if self.cycle is self._cycle_before and not self.is_answering:
            self.transport.close()
            return
        self._cycle_before = self.cycle
        self.look = self.loop.call_later(HEAD_WAIT_SECONDS, self.close_if_stuck)

    def on_response_complete(self) -> None:
        """From now on, it waits for the next request."""
        self.waits_since = self.loop.time()
        super().on_response_complete()  # type: ignore[misc]  # both of uvicorn's protocols have it

    def close_now(self) -> None:
        """Give way to another connection."""
        self.connections.discard(self)
        self.transport.abort()


class Thorough(Patience, H11Protocol):
    """uvicorn's thorough protocol, which knows all methods, and limits a head's bytes itself."""


class Protocol(Patience, HttpToolsProtocol):
    """uvicorn's fast protocol. Connections that begin with an unusual method get the thorough one."""

    has_begun = False
    head_size: int | None = 0  # bytes of the request's head so far; None: the head is complete

    def on_message_begin(self) -> None:
        """Count the bytes of a new request's head."""
        self.head_size = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The request's line and headers are complete."""
        self.head_size = None
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
        """Continue with the thorough protocol, and with the time that is left."""
        self.look.cancel()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        thorough = Thorough(self.config, self.server_state, self.app_state, self.loop)
        thorough.waits_since = self.waits_since
        self.transport.set_protocol(thorough)
        thorough.connection_made(self.transport)
        thorough.data_received(data)


def longest_waiting(connections: Iterable[object]) -> Patience | None:
    """The connection that has waited longest without a complete request; None if all get answers."""
    waiting = [found for found in connections if isinstance(found, Patience) and not found.is_answering]
    return min(waiting, key=lambda found: found.waits_since, default=None)
