"""Print that the service is ready, once it is. A program in supervisord.conf."""

import os
import sys
import time
from http.client import HTTPConnection, HTTPException


def answers(host: str, port: int) -> bool:
    """Whether a web server answers at this address, with any status."""
    connection = HTTPConnection(host, port, timeout=2)
    try:
        connection.request("HEAD", "/")
        connection.getresponse()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return True


def main() -> None:
    """Wait until the service answers, however long it takes, then print the message."""
    os.close(int(os.environ["WEB_SOCKET"]))  # the web processes' socket: this program doesn't need it
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - this program does not listen
    host = everywhere.get(os.environ["HOST"], os.environ["HOST"])
    while not answers(host, int(os.environ["PORT"])):
        time.sleep(0.05)
    sys.stdout.write(os.environ["READY_MESSAGE"])


if __name__ == "__main__":
    main()
