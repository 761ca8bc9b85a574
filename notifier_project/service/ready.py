"""Say that the service is ready, once it is. One of the programs in supervisord.conf."""

import os
import sys
import time
from http.client import HTTPConnection, HTTPException


def answers(host: str, port: int) -> bool:
    """Whether a web server answers there, whatever it says."""
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
    """Wait, for as long as it takes, then speak."""
    os.close(int(os.environ["WEB_SOCKET"]))  # the web's, which this program has no use for
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nobody listens here
    host = everywhere.get(os.environ["HOST"], os.environ["HOST"])
    while not answers(host, int(os.environ["PORT"])):
        time.sleep(0.05)
    sys.stdout.write(os.environ["READY_MESSAGE"])


if __name__ == "__main__":
    main()
