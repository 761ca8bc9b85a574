"""Django for programs: the handler of all that isn't for people."""

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

MOST_HOSTS = 100  # Host headers that are not looked at again: some 4 µs of a POST


class UnreadBody:
    """What stands in for a request's body."""

    def read(self, *_: object) -> NoReturn:
        """What Django calls for `request.body`."""
        raise NotImplementedError("Bodies are not read here: add the path to FOR_PEOPLE in notifier_project/asgi.py")


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

    Sessions, messages, CSRF and headers for browsers are the admin's. A POST is much quicker without them
    (docs/tried.md), and its answer has the headers that FastAPI's has.
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
        await respond(await self._answered(ClientsRequest(scope)), send)


@functools.lru_cache(maxsize=1000)
def _encoded(name: str, value: str) -> tuple[bytes, bytes]:
    return name.lower().encode("ascii"), value.encode("latin-1")


async def respond(response: HttpResponse, send: Send) -> None:
    """Send an answer that has all of its content (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
    headers = [_encoded(name, value) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})
