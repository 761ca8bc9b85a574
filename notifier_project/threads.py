"""The threads in which synchronous code of clients' requests runs. They never wait behind an admin page, which has its own."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from threading import Semaphore
from typing import Generic, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import OperationalError, close_old_connections

P = ParamSpec("P")
R = TypeVar("R")
_Held = tuple[Callable[[], R], "Future[R]", asyncio.TimerHandle]

THREADS = 4  # in each web process, each with a database connection of its own
ANSWER = 5.0  # seconds that a call may take, the wait for a thread included; then its request gets 503
MOST = 2000  # calls that wait for a thread, given up or not


class TooLateError(OperationalError):
    """A call has not ended in time, or can't. It may have an effect all the same, unless it had not begun."""


class _Waiting(Generic[R]):
    """A call that waits for a thread. Once it is given up, nothing is left of it: it holds its request, and that one's body.

    The answer does too, if it is an error, by the traceback.
    """

    def __init__(self) -> None:
        self._held: list[_Held[R]] = []

    def hold(self, call: Callable[[], R], answer: "Future[R]", limit: asyncio.TimerHandle) -> None:
        """Keep this until it is taken."""
        self._held.append((call, answer, limit))

    def take(self) -> "_Held[R] | None":
        """All that it holds, to whoever asks first."""
        try:
            return self._held.pop()
        except IndexError:
            return None


class Threads(ThreadPoolExecutor):
    """Four threads. A call of theirs raises TooLateError to the caller, in an event loop, when it takes too long.

    A database may keep a thread waiting for ever (a COMMIT has no limit on PostgreSQL); then all calls are refused after a
    while, until it answers, and nothing else in the process waits.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=THREADS, thread_name_prefix="api")
        self._room = Semaphore(MOST)

    def submit(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Run a call in one of the threads. Raises TooLateError if too many wait for one already."""
        if not self._room.acquire(blocking=False):
            raise TooLateError("Too many requests are waiting; nothing was done")
        loop = asyncio.get_running_loop()
        answer: Future[R] = Future()
        waiting: _Waiting[R] = _Waiting()
        waiting.hold(functools.partial(call, *args, **kwargs), answer, loop.call_later(ANSWER, _give_up, waiting, answer))

        def drop(done: "Future[R]") -> None:
            if done.cancelled() and (held := waiting.take()):  # its request is
                held[2].cancel()

        answer.add_done_callback(drop)
        super().submit(self._run, waiting, loop)
        return answer

    def _run(self, waiting: _Waiting[R], loop: asyncio.AbstractEventLoop) -> None:
        """Run a call in this thread, unless it was given up meanwhile."""
        self._room.release()
        taken = waiting.take()
        if taken is None:
            return
        call, answer, limit = taken
        with suppress(InvalidStateError, RuntimeError):  # it was too late, or cancelled, or the loop is closed
            try:
                result = _with_fresh_connections(call)
            except Exception as error:
                loop.call_soon_threadsafe(limit.cancel)
                answer.set_exception(error)
            else:
                loop.call_soon_threadsafe(limit.cancel)
                answer.set_result(result)


def _with_fresh_connections(call: Callable[[], R]) -> R:
    close_old_connections()  # Django does this on signals that clients' requests don't send
    try:
        return call()
    except Exception:
        raise
    except BaseException as error:  # in a task of an event loop, SystemExit would end the process
        raise RuntimeError(f"{type(error).__name__} in a request's thread") from error


def _give_up(waiting: _Waiting[R], answer: "Future[R]") -> None:
    done = "nothing was done" if waiting.take() else "what you asked for may be done all the same"
    with suppress(InvalidStateError):
        answer.set_exception(TooLateError(f"It took longer than {ANSWER:g} seconds; {done}"))


_threads = Threads()
_context = ThreadSensitiveContext()
SyncToAsync.context_to_thread_executor[_context] = _threads


def use_threads() -> None:
    """Have `sync_to_async` in the current context use these threads."""
    SyncToAsync.thread_sensitive_context.set(_context)
