"""The ASGI application: `uvicorn notifier_project.asgi:application`, or any other server."""

import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any, NoReturn, cast
from urllib.parse import quote

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier_project.settings")

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest, HttpResponse

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Answer = Callable[[HttpRequest], Awaitable[HttpResponse]]

# Paths that are answered by all of Django: middleware, sessions, forms. In a thread, one after the other in each process.
FOR_PEOPLE = ("/admin", settings.STATIC_URL)


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


@functools.cache
def _in_loop(view: Callable[..., Any]) -> Callable[..., Awaitable[HttpResponse]]:
    return view if iscoroutinefunction(view) else sync_to_async(view)


class ClientsHandler(BaseHandler):
    """Django for programs: what they send and get passes no middleware and sends no signals, and no body is read.

    Sessions, messages, CSRF and headers for browsers are the admin's. A POST takes half the time without them, and its
    answer has the headers that FastAPI's has.
    """

    def __init__(self) -> None:
        self._answered = cast("Answer", convert_exception_to_response(self._answer))

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        request.get_host()  # raises DisallowedHost, as CommonMiddleware does for the admin
        view, arguments, named = self.resolve_request(request)
        return await _in_loop(view)(request, *arguments, **named)

    async def __call__(self, scope: Scope, send: Send) -> None:
        """Answer one request (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        response = await self._answered(ClientsRequest(scope))
        headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": response.content})


for_people = get_asgi_application()
for_clients = ClientsHandler()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The service. Raises ValueError for what is no HTTP; a server takes that for "no lifespan events, no WebSockets"."""
    if scope["type"] != "http":
        raise ValueError(f"This is an application for HTTP, not for {scope['type']}")
    if scope["path"].startswith(FOR_PEOPLE):
        await for_people(scope, receive, send)
    else:
        await for_clients(scope, send)
