"""The WSGI application: `granian --interface wsgi notifier_project.wsgi:application`, or any other server."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from typing import Any, cast
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

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier_project.settings")

from django.conf import settings  # noqa: E402
from django.core.handlers.base import BaseHandler  # noqa: E402
from django.core.handlers.exception import convert_exception_to_response  # noqa: E402
from django.core.handlers.wsgi import WSGIRequest  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.http.response import HttpResponseBase  # noqa: E402


class ClientsHandler(BaseHandler):
    """Django for programs: what they send and get passes no middleware and sends no signals.

    Sessions, messages, CSRF and headers for browsers are the admin's. A POST takes two thirds of the time without them,
    and its answer has the headers that FastAPI's has.
    """

    def __init__(self) -> None:
        none: list[Any] = []
        self._view_middleware = self._template_response_middleware = self._exception_middleware = none
        self._middleware_chain = convert_exception_to_response(self._answer)

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        request.get_host()  # raises DisallowedHost, as CommonMiddleware does for the admin
        response: HttpResponseBase = self._get_response(request)  # type: ignore[attr-defined]  # the stubs lack it
        return response

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        response = cast("HttpResponse", self.get_response(WSGIRequest(environ)))
        start_response(f"{response.status_code} {response.reason_phrase}", list(response.items()))
        return [response.content]


for_people = get_wsgi_application()
for_clients = ClientsHandler()
PEOPLE = ("/admin", settings.STATIC_URL)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The service. Requests are read as FastAPI reads them, where Django's reading would be another."""
    if environ["PATH_INFO"].startswith(PEOPLE):
        return for_people(environ, start_response)
    if not environ["PATH_INFO"].isascii():
        # Bytes that are no UTF-8 become U+FFFD; Django would leave them percent-encoded, as if they had come so.
        path = environ["PATH_INFO"].encode("latin-1")  # PEP 3333: bytes, in the guise of latin-1
        environ["PATH_INFO"] = path.decode("utf-8", errors="replace").encode().decode("latin-1")
    if not environ.get("HTTP_HOST") and environ["SERVER_PROTOCOL"] != "HTTP/1.1":
        # HTTP/1.0 knows no Host, for which granian puts an empty one: without it, SERVER_NAME counts.
        environ.pop("HTTP_HOST", None)
    return for_clients(environ, start_response)
