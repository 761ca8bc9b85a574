"""The handler for clients: it answers every path that no other handler answers (`notifier_project/asgi.py`)."""

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any, NoReturn, cast
from urllib.parse import quote

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest, HttpResponse

from notifier_project.access.gate import Gate
from notifier_project.access.tokens import ANONYMOUS

Scope = dict[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Answer = Callable[[HttpRequest], Awaitable[HttpResponse]]

MOST_HOSTS = 100  # Host headers that are remembered as allowed; it saves some 4 µs for each POST


class UnreadBody:
    """Stands in for a request's body, which is never read."""

    def read(self, *_: object) -> NoReturn:
        """Refuse: Django calls this for `request.body`."""
        raise NotImplementedError("Bodies are not read here: add the path to another handler's in notifier_project/asgi.py")


UNREAD = cast("IO[bytes]", UnreadBody())


class ClientsRequest(ASGIRequest):
    """A client's request. It keeps the method as the client sent it: methods are case-sensitive (RFC 9110, section 9.1)."""

    actor = ANONYMOUS  # whose token came with it

    def __init__(self, scope: Scope) -> None:
        if not scope["query_string"].isascii():  # ASGIRequest would refuse it, and Starlette accepts it
            scope["query_string"] = quote(scope["query_string"], safe="!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()
        super().__init__(scope, UNREAD)
        self.method = scope["method"]

    def _set_content_type_params(self, meta: Mapping[str, Any]) -> None:
        """Do nothing: the content type describes the body, which is not read, and Django would refuse a malformed one."""


@functools.cache
def in_loop(view: Callable[..., Any]) -> Callable[..., Awaitable[HttpResponse]]:
    """A view that the event loop can await: a synchronous view runs in one of the threads in `notifier_project/threads.py`."""
    return view if iscoroutinefunction(view) else sync_to_async(view)


class ClientsHandler(BaseHandler):
    """Django without middleware and request signals. It reads no request bodies.

    Only the admin needs sessions, messages, CSRF and headers for browsers. Without them, a POST is much faster
    (docs/tried.md), and its response has the same headers as FastAPI's.
    """

    def __init__(self, gate: Gate | None = None) -> None:
        """`gate`: what every request passes, if there is something to check."""
        self._gate = gate
        self._known_hosts: set[str | None] = set()
        self._answered = cast("Answer", convert_exception_to_response(self._answer))

    def check_host(self, request: HttpRequest) -> None:
        """Raise DisallowedHost, as CommonMiddleware does for the admin."""
        host = request.META.get("HTTP_HOST")
        if host not in self._known_hosts:
            request.get_host()
            if len(self._known_hosts) < MOST_HOSTS:
                self._known_hosts.add(host)

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        self.check_host(request)
        view, arguments, named = self.resolve_request(request)
        if self._gate and (refusal := self._gate.refusal_to_client(request)):
            return refusal
        return await in_loop(view)(request, *arguments, **named)

    async def __call__(self, scope: Scope, send: Send) -> None:
        """Answer one request (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        await respond(await self._answered(ClientsRequest(scope)), send)


@functools.lru_cache(maxsize=100)
def _encoded(name: str) -> bytes:
    """The name of a header. Not its value with it: that of `Task-Id` never comes again."""
    return name.lower().encode("ascii")


async def respond(response: HttpResponse, send: Send) -> None:
    """Send a response whose content is complete (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
    headers = [(_encoded(name), value.encode("latin-1")) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})
