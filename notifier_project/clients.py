"""The handler for clients: it answers every path but the admin's and the static files'."""

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any, NoReturn, cast
from urllib.parse import quote

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse

Scope = dict[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Answer = Callable[[HttpRequest], Awaitable[HttpResponse]]

MOST_HOSTS = 100  # Host headers that are remembered as allowed; it saves some 4 µs for each POST


class UnreadBody:
    """Stands in for a request's body, which is never read."""

    def read(self, *_: object) -> NoReturn:
        """Refuse: Django calls this for `request.body`."""
        raise NotImplementedError("Bodies are not read here: add the path to FOR_PEOPLE in notifier_project/asgi.py")


UNREAD = cast("IO[bytes]", UnreadBody())


class ClientsRequest(ASGIRequest):
    """A client's request. It keeps the method as the client sent it: methods are case-sensitive (RFC 9110, section 9.1)."""

    def __init__(self, scope: Scope) -> None:
        if not scope["query_string"].isascii():  # ASGIRequest would refuse it, and Starlette accepts it
            scope["query_string"] = quote(scope["query_string"], safe="!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()
        super().__init__(scope, UNREAD)
        self.method = scope["method"]

    def _set_content_type_params(self, meta: Mapping[str, Any]) -> None:
        """Do nothing: the content type describes the body, which is not read, and Django would refuse a malformed one."""


@functools.cache
def _in_loop(view: Callable[..., Any]) -> Callable[..., Awaitable[HttpResponse]]:
    """A view that the event loop can await: a synchronous view runs in the thread that also serves the admin."""

    @functools.wraps(view)
    def in_thread(*arguments: Any, **named: Any) -> HttpResponse:
        close_old_connections()  # Django does this on signals that clients' requests don't send
        response: HttpResponse = view(*arguments, **named)
        return response

    return view if iscoroutinefunction(view) else sync_to_async(in_thread)


class ClientsHandler(BaseHandler):
    """Django without middleware and request signals. It reads no request bodies.

    Only the admin needs sessions, messages, CSRF and headers for browsers. Without them, a POST is much faster
    (docs/tried.md), and its response has the same headers as FastAPI's.
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
            await sync_to_async(close_old_connections)()  # those of an `async` view's own queries
            raise

    async def __call__(self, scope: Scope, send: Send) -> None:
        """Answer one request (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        await respond(await self._answered(ClientsRequest(scope)), send)


@functools.lru_cache(maxsize=1000)
def _encoded(name: str, value: str) -> tuple[bytes, bytes]:
    return name.lower().encode("ascii"), value.encode("latin-1")


async def respond(response: HttpResponse, send: Send) -> None:
    """Send a response whose content is complete (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
    headers = [_encoded(name, value) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})
