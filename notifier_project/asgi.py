"""The ASGI application: `uvicorn notifier_project.asgi:application`, or any other server."""

import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import IO, Any, NoReturn, cast
from urllib.parse import quote

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier_project.settings")

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, iscoroutinefunction, sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse, JsonResponse

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Answer = Callable[[HttpRequest], Awaitable[HttpResponse]]

# Paths that are answered by all of Django: middleware, sessions, forms. In a thread, one after the other in each process.
FOR_PEOPLE = ("/admin", settings.STATIC_URL)
MOST_HOSTS = 100  # Host headers that are not looked at again: some 4 µs of a POST
ONE_THREAD = ThreadSensitiveContext()  # Django would have a thread for each request, and a database connection for each thread


class UnreadBody:
    """What stands in for a request's body."""

    def read(self, *_: object) -> NoReturn:
        """What Django calls for `request.body`."""
        raise NotImplementedError(f"Bodies are not read here: add the path to FOR_PEOPLE in {__file__}")


UNREAD = cast("IO[bytes]", UnreadBody())


class ClientsRequest(ASGIRequest):
    """A request of a program. Its method is as it came: names of methods are case-sensitive (RFC 9110, section 9.1)."""

    def __init__(self, scope: Scope) -> None:
        if not scope["query_string"].isascii():  # which ASGIRequest would refuse, and Starlette doesn't
            scope["query_string"] = quote(scope["query_string"], safe="!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()
        super().__init__(scope, UNREAD)
        self.method = scope["method"]

    def _set_content_type_params(self, meta: Mapping[str, Any]) -> None:
        """Leave it alone: it speaks of the body, and what is wrong with it would be an error."""


@functools.cache
def _in_loop(view: Callable[..., Any]) -> Callable[..., Awaitable[HttpResponse]]:
    """A view as the loop can call it: one that is no coroutine function runs in the thread of the admin's."""

    @functools.wraps(view)
    def in_thread(*arguments: Any, **named: Any) -> HttpResponse:
        close_old_connections()  # what Django does by the signals that clients' requests don't send
        response: HttpResponse = view(*arguments, **named)
        return response

    return view if iscoroutinefunction(view) else sync_to_async(in_thread)


class ClientsHandler(BaseHandler):
    """Django for programs: what they send and get passes no middleware and sends no signals, and no body is read.

    Sessions, messages, CSRF and headers for browsers are the admin's. A POST takes half the time without them, and its
    answer has the headers that FastAPI's has.
    """

    def __init__(self) -> None:
        self._known_hosts: set[str | None] = set()
        self._answered = cast("Answer", convert_exception_to_response(self._answer))

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        host = request.META.get("HTTP_HOST")
        if host not in self._known_hosts:
            request.get_host()  # raises DisallowedHost, as CommonMiddleware does for the admin
            if len(self._known_hosts) < MOST_HOSTS:
                self._known_hosts.add(host)
        view, arguments, named = self.resolve_request(request)
        try:
            return await _in_loop(view)(request, *arguments, **named)
        except DatabaseError:
            await sync_to_async(close_old_connections)()  # of an `async` view's own queries
            raise

    async def __call__(self, scope: Scope, send: Send) -> None:
        """Answer one request (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        await _respond(await self._answered(ClientsRequest(scope)), send)


for_people = get_asgi_application()
for_clients = ClientsHandler()
import_module(settings.ROOT_URLCONF)  # so that the first request need not wait for all that it names


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The service. Raises ValueError for what is no HTTP; a server takes that for "no lifespan events, no WebSockets"."""
    if scope["type"] != "http":
        raise ValueError(f"This is an application for HTTP, not for {scope['type']}")
    SyncToAsync.thread_sensitive_context.set(ONE_THREAD)
    if not scope["path"].startswith(FOR_PEOPLE):
        await for_clients(scope, send)
    elif refusal := _refusal(dict(scope["headers"])):
        await _respond(refusal, send)
    else:
        await for_people(scope, receive, send)


def _refusal(headers: Mapping[bytes, bytes]) -> HttpResponse | None:
    """What is said to a body that may be longer than any form: Django stores all of it before it looks at anything else."""
    if b"transfer-encoding" in headers:
        return JsonResponse({"detail": "Length Required"}, status=411)
    longest = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    if longest is not None and int(headers.get(b"content-length", b"0")) > longest:
        return JsonResponse({"detail": "Content Too Large"}, status=413)
    return None


@functools.lru_cache(maxsize=1000)
def _encoded(name: str, value: str) -> tuple[bytes, bytes]:
    return name.lower().encode("ascii"), value.encode("latin-1")


async def _respond(response: HttpResponse, send: Send) -> None:
    headers = [_encoded(name, value) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})
