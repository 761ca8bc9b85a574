"""The handler for the API: `/tasks` and below. It reads bodies, and knows no session and no middleware.

A synchronous view runs in one of four threads of the API's own, and so does what an asynchronous one gives to
`sync_to_async` (`notifier_project/threads.py`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from logging import getLogger
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.db import DataError, IntegrityError
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse

from notifier_project.access.gate import Gate
from notifier_project.clients import ClientsHandler, ClientsRequest, Scope, Send, in_loop, respond
from notifier_project.refusals import refuse
from notifier_project.threads import TooLateError

Receive = Callable[[], Awaitable[Any]]

logger = getLogger(__name__)

LARGEST = 1 << 20  # bytes of a body
BODY_SECONDS = 15.0  # that a body may take to arrive
SILENCE = 10.0  # seconds between two lines of the output that say the same
MOST_HELD = 64 << 20  # bytes of all the bodies that a process holds at a time


class RefusedError(Exception):
    """The body can't be read: this is the answer."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__(response.status_code)
        self.response = response


class ApiRequest(ClientsRequest):
    """A request whose body is read before the view is called."""

    is_read = False  # whether its body was read to its end

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope)
        self.receive = receive

    def _set_content_type_params(self, meta: Mapping[str, Any]) -> None:
        """Set the media type alone, in lower case. Views decide what they take, and read no forms."""
        self.content_type = meta.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        self.content_params = {}


class ApiHandler(ClientsHandler):
    """Reads a request's body, checks what its path and method need, and calls the view. Errors are JSON."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(gate)
        self._gate: Gate = gate
        self._held = 0  # bytes of bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        """Answer one request (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        request = ApiRequest(scope, receive)
        try:
            response = await self._answered(request)
        finally:
            self._held -= len(getattr(request, "_body", b""))
        if not request.is_read and "HTTP_EXPECT" in request.META:
            # Whoever has not been told to continue may never send the body, and the next request would be taken for it.
            response["Connection"] = "close"
        await respond(response, send)

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        assert isinstance(request, ApiRequest)  # noqa: S101 - for mypy
        self.check_host(request)
        if refusal := self._gate.refusal_in_api(request):
            return refusal
        view, arguments, named = self.resolve_request(request)
        try:
            request._body = await self._body(request)
            answer = in_loop(view)(request, *arguments, **named)
            if request.method == "GET" and iscoroutinefunction(view):
                return await _unless_hung_up(answer, request.receive)
            return await answer
        except RefusedError as refused:
            return refused.response
        except (DataError, IntegrityError):
            raise  # a mistake of ours
        except DatabaseError as error:
            return _unavailable(request, error)

    async def _body(self, request: ApiRequest) -> bytes:
        """The whole body. Raises RefusedError for one that is too large or comes too slowly."""
        length = request.META.get("CONTENT_LENGTH", "")
        if length.isdecimal() and int(length) > LARGEST:
            raise RefusedError(refuse(413, "Content Too Large"))
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while not request.is_read:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(refuse(400, "Bad Request"))  # nobody reads it
                    part = message.get("body", b"")
                    size += len(part)
                    if size > LARGEST:
                        # What is left is read and dropped by the server: a connection closed under a client that is still
                        # sending is reset, and the answer lost.
                        raise RefusedError(refuse(413, "Content Too Large"))
                    if self._held + len(part) > MOST_HELD:
                        raise RefusedError(refuse(503, "Too many bodies at once. Please try again.", {"Retry-After": "1"}))
                    self._held += len(part)
                    parts.append(part)
                    request.is_read = not message.get("more_body", False)
        except TimeoutError:
            self._held -= sum(map(len, parts))
            raise RefusedError(refuse(408, "Request Timeout", {"Connection": "close"})) from None
        except BaseException:
            self._held -= sum(map(len, parts))
            raise
        return b"".join(parts)


async def _unless_hung_up(answer: Awaitable[HttpResponse], receive: Receive) -> HttpResponse:
    """The answer to a GET, which is given up when the client hangs up. What changes something is done all the same."""
    answering, gone = asyncio.ensure_future(answer), asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else refuse(400, "Bad Request")  # nobody reads it
    finally:
        gone.cancel()
        if not answering.done():
            answering.cancel()
            await asyncio.wait({answering})


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Complaints:
    """One line for the first request that could not be answered, then one for all of some seconds: there may be thousands."""

    silent_until = 0.0  # monotonic
    unsaid = 0

    def add(self, method: str | None, said: str) -> None:
        now = time.monotonic()
        if now < self.silent_until:
            self.unsaid += 1
            return
        others = f" (and {self.unsaid} others since the last such line)" if self.unsaid else ""
        self.silent_until, self.unsaid = now + SILENCE, 0
        logger.error("%s could not be answered: %s", method, said + others)


_complaints = _Complaints()


def _unavailable(request: HttpRequest, error: DatabaseError) -> HttpResponse:
    said = str(error).strip()
    _complaints.add(request.method, said)
    detail = said if isinstance(error, TooLateError) else "The database can't be used at the moment"
    return refuse(503, f"{detail}. Please try again.", {"Retry-After": "1"})
