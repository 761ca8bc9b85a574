"""A process that answers requests: uvicorn, on a socket that others of its kind have too. A program in supervisord.conf."""

import os
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from notifier_project import settings

# What uvicorn's quick parser takes for a method. Others are nobody's but may be sent (RFC 9110, section 9.1), and get a 405.
METHODS = (b"POST ", b"GET ", b"HEAD ", b"OPTIONS ", b"PUT ", b"PATCH ", b"DELETE ", b"TRACE ", b"CONNECT ")

STOP_GRACE = 3  # seconds (or the tasks' grace, if shorter) that a stop waits for requests: longer, a client is to blame


class Protocol(HttpToolsProtocol):
    """uvicorn's quick protocol, which leaves connections that begin with an unusual method to its thorough one."""

    has_begun = False

    def data_received(self, data: bytes) -> None:
        """Take in what the client sent."""
        if self.has_begun or data.startswith(METHODS):
            self.has_begun = True
            super().data_received(data)
            return
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
    inherited = os.environ.get("WEB_SOCKET")
    uvicorn.Server(config).run([socket.socket(fileno=int(inherited))] if inherited else None)


if __name__ == "__main__":
    main()
