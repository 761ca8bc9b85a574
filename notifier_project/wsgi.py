"""The WSGI application: `granian --interface wsgi notifier_project.wsgi:application`, or any other server."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment


def obey_parent() -> None:
    """Be a good child of Granian's main process; a server that isn't built on multiprocessing has no such process.

    Until its worker listens for signals, which is after this module's import, it has its parent's handlers, which would
    take SIGTERM for the parent's own: it would never stop. And it outlives a parent that is killed, and keeps its port.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_then_exit() -> None:
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=wait_then_exit, daemon=True).start()


obey_parent()  # before the imports, which take a while

from django.core.wsgi import get_wsgi_application  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier_project.settings")
django_application = get_wsgi_application()


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Django, given requests as FastAPI reads them, where its own reading would be another."""
    if not environ["PATH_INFO"].isascii():
        # Bytes that are no UTF-8 become U+FFFD; Django would leave them percent-encoded, as if they had come so.
        path = environ["PATH_INFO"].encode("latin-1")  # PEP 3333: bytes, in the guise of latin-1
        environ["PATH_INFO"] = path.decode("utf-8", errors="replace").encode().decode("latin-1")
    if not environ.get("HTTP_HOST") and environ["SERVER_PROTOCOL"] != "HTTP/1.1":
        # HTTP/1.0 knows no Host, for which granian puts an empty one: without it, SERVER_NAME counts.
        environ.pop("HTTP_HOST", None)
    return django_application(environ, start_response)
