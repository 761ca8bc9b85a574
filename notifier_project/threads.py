"""The threads in which synchronous code of clients' requests runs. They never wait behind an admin page, which has its own."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import OperationalError, close_old_connections

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 4  # in each web process, each with a database connection of its own
ANSWER = 5.0  # seconds that a call may take, the wait for a thread included; then its request gets 503


class TooLateError(OperationalError):
    """A call has not ended in time. It may have an effect all the same, unless it had not begun."""


class Threads(ThreadPoolExecutor):
    """Four threads. A call of theirs raises TooLateError to the caller, in an event loop, when it takes too long.

    A database may keep a thread waiting for ever (a COMMIT has no limit on PostgreSQL); then all calls are refused after a
    while, until it answers, and nothing else in the process waits.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=THREADS, thread_name_prefix="api")

    def submit(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Run a call in one of the threads."""
        loop = asyncio.get_running_loop()
        inner = super().submit(_with_fresh_connections, functools.partial(call, *args, **kwargs))
        outer: Future[R] = Future()
        limit = loop.call_later(ANSWER, _give_up, inner, outer)

        def pass_on(done: "Future[Any]") -> None:
            with suppress(InvalidStateError, RuntimeError):  # it was too late, or cancelled, or the loop is closed
                loop.call_soon_threadsafe(limit.cancel)
                if not done.cancelled():
                    error = done.exception()
                    outer.set_exception(error) if error else outer.set_result(done.result())

        def drop(done: "Future[R]") -> None:
            if done.cancelled():  # its request is
                inner.cancel()

        outer.add_done_callback(drop)
        inner.add_done_callback(pass_on)
        return outer


def _with_fresh_connections(call: Callable[[], R]) -> R:
    close_old_connections()  # Django does this on signals that clients' requests don't send
    try:
        return call()
    except Exception:
        raise
    except BaseException as error:  # in a task of an event loop, SystemExit would end the process
        raise RuntimeError(f"{type(error).__name__} in a request's thread") from error


def _give_up(inner: "Future[Any]", outer: "Future[Any]") -> None:
    done = "nothing was done" if inner.cancel() else "what you asked for may be done all the same"
    with suppress(InvalidStateError):
        outer.set_exception(TooLateError(f"The database has not answered for {ANSWER:g} seconds; {done}"))


_threads = Threads()
_context = ThreadSensitiveContext()
SyncToAsync.context_to_thread_executor[_context] = _threads


def use_threads() -> None:
    """Have `sync_to_async` in the current context use these threads."""
    SyncToAsync.thread_sensitive_context.set(_context)
