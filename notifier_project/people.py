"""The handler for people: all of Django, for the admin and the static files. One thread answers them, one at a time.

The admin's statements are limited by `statement_timeout`, which does not reach a COMMIT, nor a server that hangs: they may wait
for ever, for a standby that is missing. So the event loop watches the thread, and answers in its place. A statement that takes
longer than `ANSWER` counts as a wait, too; what Python does between two statements doesn't.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any

from django.core.asgi import get_asgi_application
from django.db import connections
from django.http import HttpRequest, HttpResponse, HttpResponseNotFound

from notifier_project.clients import Scope, Send, respond

Receive = Callable[[], Awaitable[Any]]
Respond = Callable[[HttpRequest], HttpResponse]

ANSWER = 5.0  # seconds for which the thread waits for the database, until people get 503
LOOK = 0.25  # seconds between two looks at it
TOO_LATE = "notifier.too_late"  # in a request's scope, once it was answered in the thread's place

_waits_since: float | None = None  # when (monotonic) the thread last gave something to do to the database, or heard of it


def _unavailable() -> HttpResponse:
    text = (
        f"The database has not answered for {ANSWER:g} seconds. What you asked for may be done all the same: try again later."
    )
    return HttpResponse(text, status=503, content_type="text/plain; charset=utf-8", headers={"Retry-After": "5"})


def _note_statement(execute: Callable[..., Any], sql: str, values: Any, many: bool, context: dict[str, Any]) -> Any:
    global _waits_since  # noqa: PLW0603 - there is one thread
    _waits_since = time.monotonic()
    try:
        return execute(sql, values, many, context)
    finally:
        _waits_since = time.monotonic() if context["connection"].in_atomic_block else None  # a COMMIT may come next


def database_watch(get_response: Respond) -> Respond:
    """A middleware, the first one: note what the thread waits for, and do nothing for a request that was answered meanwhile."""

    def respond_watched(request: HttpRequest) -> HttpResponse:
        global _waits_since  # noqa: PLW0603
        if TOO_LATE in getattr(request, "scope", ()):
            return _unavailable()
        _waits_since = time.monotonic()  # Django may ask a connection first whether it lives
        try:
            with ExitStack() as stack:
                for connection in connections.all():
                    stack.enter_context(connection.execute_wrapper(_note_statement))
                return get_response(request)
        finally:
            _waits_since = None

    return respond_watched


class PeopleHandler:
    """Django's ASGI application, with a limit on its waits for the database."""

    def __init__(self) -> None:
        self._django = get_asgi_application()
        self._left: set[asyncio.Task[None]] = set()  # requests that were answered in the thread's place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # no row has it in its key, and PostgreSQL refuses it
            await respond(HttpResponseNotFound("Not Found", content_type="text/plain; charset=utf-8"), send)
            return
        if _is_waiting_too_long():
            await respond(_unavailable(), send)
            return
        has_begun = False

        async def send_in_time(message: Mapping[str, Any]) -> None:
            nonlocal has_begun
            if TOO_LATE not in scope:
                has_begun = True
                await send(message)

        answer = asyncio.ensure_future(self._django(scope, receive, send_in_time))
        try:
            while not (await asyncio.wait({answer}, timeout=LOOK))[0]:
                if _is_waiting_too_long() and not has_begun:
                    scope[TOO_LATE] = True
                    self._left.add(answer)
                    answer.add_done_callback(self._left.discard)
                    await respond(_unavailable(), send)
                    return
            answer.result()
        except asyncio.CancelledError:  # the client is gone, or the server stops
            answer.cancel()
            raise


def _is_waiting_too_long() -> bool:
    since = _waits_since
    return since is not None and time.monotonic() - since > ANSWER
