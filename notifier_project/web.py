"""A process that answers requests: uvicorn, on a socket that others of its kind have too. A program in supervisord.conf."""

import asyncio
import os
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from notifier_project import settings

# What uvicorn's quick parser takes for a method. Others are nobody's but may be sent (RFC 9110, section 9.1), and get a 405.
METHODS = (b"POST ", b"GET ", b"HEAD ", b"OPTIONS ", b"PUT ", b"PATCH ", b"DELETE ", b"TRACE ", b"CONNECT ")

# Bytes of a request's line and headers, beyond what came first. uvicorn's parser has no limit, and gets slow.
LONGEST_HEAD = 256 * 1024
PATIENCE = 30.0  # seconds in which a client must have sent a request's line and headers, or the next ones

STOP_GRACE = 3  # seconds (or the tasks' grace, if shorter) that a stop waits for requests: longer, a client is to blame


class Protocol(HttpToolsProtocol):
    """uvicorn's quick protocol, with limits, which leaves connections that begin with an unusual method to its thorough one."""

    has_begun = False
    head_size: int | None = 0  # bytes so far of what comes before a body; None: it is complete
    heads = 0  # how many were complete
    heads_before = 0  # when it was last looked
    look: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; it has to get on."""
        super().connection_made(transport)
        self.look = self.loop.call_later(PATIENCE, self.close_if_stuck)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self.look.cancel()
        super().connection_lost(exc)

    def close_if_stuck(self) -> None:
        """Close a connection on which nothing is answered, and no request has become complete for a while."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self.heads == self.heads_before and not is_answering:
            self.transport.close()
            return
        self.heads_before = self.heads
        self.look = self.loop.call_later(PATIENCE, self.close_if_stuck)

    def on_message_begin(self) -> None:
        """A request begins."""
        self.head_size = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """All before its body is there."""
        self.head_size = None
        self.heads += 1
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Take in what the client sent."""
        if not self.has_begun and not data.lstrip(b"\r\n").startswith(METHODS):
            self.hand_over(data)
            return
        self.has_begun = True
        if self.head_size is not None:
            self.head_size += len(data)
            if self.head_size > LONGEST_HEAD:
                self.send_400_response("The request's line and headers are too long.")
                return
        super().data_received(data)

    def hand_over(self, data: bytes) -> None:
        """Let the thorough protocol go on, which knows limits of its own."""
        self.look.cancel()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        thorough = H11Protocol(self.config, self.server_state, self.app_state, self.loop)
        self.transport.set_protocol(thorough)
        thorough.connection_made(self.transport)
        thorough.data_received(data)


def main() -> None:
    """Serve until SIGTERM, on the socket whose descriptor WEB_SOCKET names; without one, on a socket of its own."""
    config = uvicorn.Config(
        "notifier_project.asgi:application",
        host=settings.HOST,
        port=settings.PORT,
        http=Protocol,
        ws="none",
        lifespan="off",
        proxy_headers=False,  # NOTIFIER_HTTPS says whether they can be trusted, and Django reads them
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=min(STOP_GRACE, settings.NOTIFIER_STOP_GRACE),
    )
    sockets = None
    if inherited := os.environ.pop("WEB_SOCKET", None):
        sockets = [socket.socket(fileno=int(inherited))]
        sockets[0].set_inheritable(False)
    uvicorn.Server(config).run(sockets)


if __name__ == "__main__":
    main()
