"""A time limit on what a thread runs. Once it is over, an exception is raised in that thread, and never in anything after it.

In the main thread a signal does it, which ends a blocking call too (setitimer(2)). In another thread the exception comes
between two instructions of Python, hence after a blocking call of C has returned
(https://docs.python.org/3/c-api/init.html#c.PyThreadState_SetAsyncExc).
"""

import ctypes
import itertools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from types import FrameType
from typing import ParamSpec, TypeVar

from django_q.exceptions import TimeoutException

from durable_queue.task.delicate import is_delicate

P = ParamSpec("P")
R = TypeVar("R")

HEED = 0.5  # seconds that what was interrupted has to come to its end, before it is overdue
AGAIN = 0.01  # seconds until the next try when a thread is in such code


def over_limit(what: str, seconds: float) -> str:
    """What the history says of it, in django-q2's words."""
    return f"{what} exceeded maximum timeout value ({seconds:g} seconds)"


class _State(Enum):
    QUIET = auto()
    RAISED = auto()  # in another thread: the exception is on its way
    POSTPONED = auto()  # until the thread leaves what must not be interrupted
    HEARD = auto()


class OverLimitError(TimeoutException):  # type: ignore[misc]
    """What runs is over its limit. As django-q2's, it is a SystemExit: `except Exception` does not stop it."""

    def __init__(self, *args: object) -> None:
        """Made in the thread that is interrupted, when the exception arrives there."""
        if not args and (limit := of_thread()):
            args = (limit.hear(),)
        super().__init__(*args)


_NOTHING = (0, 0.0)


class Limit:
    """The limit on what a thread runs; each thing that it runs has a number of its own."""

    def __init__(self) -> None:
        self.current = _NOTHING  # the number of what runs, and when (monotonic) it is over its limit; 0.0 for never
        self.what, self._seconds = "", 0.0
        self._thread = 0
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._state = _State.QUIET
        self._is_interrupting = False  # whether another thread is about to, or has
        self._shields = 0

    def join(self) -> None:
        """The calling thread, one of the worker's own, is the one that it limits."""
        self._thread = threading.get_ident()
        _own.limit = self
        with _lock:
            _joined.add(self)

    def leave(self) -> None:
        """The thread is about to end."""
        with _lock:
            _joined.discard(self)

    def begin(self, seconds: float, what: str) -> None:
        """Something begins that may take so many seconds, or any time if that is not above 0."""
        self._forget()
        self.what, self._seconds = what, seconds
        self.current = (next(self._numbers), time.monotonic() + seconds if seconds > 0 else 0.0)

    def end(self) -> None:
        """It has ended. The exception may have arrived in the middle of this very call: then call it again."""
        self.current = _NOTHING
        self._forget()

    def _forget(self) -> None:
        # No lock, as long as nobody interrupts: `interrupt` says so first, and looks at the rest then.
        if self._is_interrupting:
            with self._lock:
                if self._state is _State.RAISED:
                    _raise_in(self._thread, None)
                self._state, self._is_interrupting = _State.QUIET, False
        self._shields = 0

    def interrupt(self, number: int) -> None:
        """From another thread: interrupt what has this number, if it still runs and was not interrupted before."""
        with self._lock:
            if not number or self._state is not _State.QUIET:
                return
            self._is_interrupting = True
            if number == self.current[0]:
                if self._shields:
                    self._state = _State.POSTPONED
                elif not is_delicate(sys._current_frames().get(self._thread)):
                    self._state = _State.RAISED
                    _raise_in(self._thread, OverLimitError)
            self._is_interrupting = self._state is not _State.QUIET

    def hear(self) -> str:
        """The exception has arrived; returns its text."""
        self._state = _State.HEARD
        return over_limit(self.what, self._seconds)

    def shield(self) -> None:
        """From now on an interruption is postponed."""
        self._shields += 1
        if self._is_interrupting:
            with self._lock:
                if self._state is _State.RAISED:
                    _raise_in(self._thread, None)
                    self._state = _State.POSTPONED

    def unshield(self) -> None:
        """Raises OverLimitError if an interruption was postponed."""
        self._shields -= 1
        if self._is_interrupting and self._shields <= 0:
            with self._lock:
                is_late = self._state is _State.POSTPONED
            if is_late:
                raise OverLimitError

    def after_fork(self) -> None:
        """In a forked child: the thread that would interrupt it is not here."""
        self._lock = threading.RLock()
        self.current, self._state, self._is_interrupting = _NOTHING, _State.QUIET, False

    @property
    def is_postponed(self) -> bool:
        """Whether an interruption waits for the thread to leave what must not be interrupted, and leaves it here."""
        return self._state is _State.POSTPONED and self._shields == 1


class MainThreadLimit(Limit):
    """The same for the main thread, which a signal interrupts."""

    def join(self) -> None:
        """The calling thread, the main one, is the one that it limits."""
        _own.limit = self

    def begin(self, seconds: float, what: str) -> None:
        """Something begins that may take so many seconds, or any time if that is not above 0."""
        super().begin(seconds, what)
        signal.signal(signal.SIGALRM, self._expire)
        signal.setitimer(signal.ITIMER_REAL, max(0.0, seconds))

    def end(self) -> None:
        """It has ended."""
        super().end()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _expire(self, _: int, frame: FrameType | None) -> None:
        moment = self.current[1]
        if not moment or self._state is not _State.QUIET:
            return
        if (left := moment - time.monotonic()) > 0:  # the signal was meant for what ran before
            signal.setitimer(signal.ITIMER_REAL, left)
            return
        if is_delicate(frame) and not self._shields:
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        self._is_interrupting = True
        if self._shields:
            self._state = _State.POSTPONED
        else:
            raise OverLimitError


def under(seconds: float, what: str, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function, and interrupt it after so many seconds (0.0: never) if the thread has a limit.

    Raises OverLimitError, and what the function raises.
    """
    limit = of_thread()
    if limit is None:
        return func(*args, **kwargs)
    try:
        try:
            limit.begin(seconds, what)
            return func(*args, **kwargs)
        finally:
            limit.end()
    except BaseException:
        limit.end()  # the interruption may have come in the middle of that
        raise


_lock = threading.Lock()
_joined: set[Limit] = set()  # of all threads that others interrupt
_own = threading.local()


def interrupt_all(now: float) -> float:
    """Interrupt what is over its limit by now, in any thread; return when (monotonic) the next one will be, or infinity."""
    with _lock:
        joined = list(_joined)
    soonest = math.inf
    for limit in joined:
        number, moment = limit.current
        if moment > now:
            soonest = min(soonest, moment)
        elif moment:
            limit.interrupt(number)
    return soonest


def over(now: float) -> list[str]:
    """What is over its limit by now, in any thread, and has not heeded that."""
    with _lock:
        return [limit.what for limit in _joined if 0.0 < limit.current[1] <= now]


def of_thread() -> Limit | None:
    """The limit of the calling thread, if it has one."""
    limit: Limit | None = getattr(_own, "limit", None)
    return limit


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - the parent's may be taken
    _lock = threading.Lock()
    if limit := of_thread():
        limit.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread; None takes back one that has not arrived yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)
