"""Two web processes with the routes of tests/support/dying_urls.py, on one socket. Each that dies has a successor at once.

python -m tests.support.dying_web PORT
"""

import os
import socket
import sys


def main(port: int) -> None:
    """Serve until SIGTERM."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.support.dying_settings"
    listener = socket.create_server(("127.0.0.1", port), backlog=128)

    import notifier_project.asgi  # noqa: F401, PLC0415 - once for all of them: they start in no time
    from notifier_project.service import web  # noqa: PLC0415

    processes = 0
    while True:
        while processes < 2:
            if not os.fork():
                os.environ["WEB_SOCKET"] = str(listener.fileno())
                web.main()
                os._exit(0)
            processes += 1
        os.wait()
        processes -= 1


if __name__ == "__main__":
    main(int(sys.argv[1]))
