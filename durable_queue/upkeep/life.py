"""Upkeep's signs of life. They stand in memory that the supervisor shares, so that they outlive the process.

Each duty says what it is at, and since when. To wait for the database counts for nothing: it may take as long as it takes.
Everything else is short. What stands still may hang in code of the project (a receiver of a signal) or of C; only the
end of the process helps then. What was at hand when it was killed twice in a row is left alone from then on.
"""

import mmap
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

STILL = 5.0  # seconds after which what stands still does not go on by itself
DEADLY = 2  # kills in a row

_TICK = struct.Struct("=d")  # when the process was last seen to run (monotonic)
_PLACE = struct.Struct("=d56s")  # since when (monotonic; 0: nothing is at hand), and what
_DEATH = struct.Struct("=q56s")  # how often upkeep was killed at it, and what
_PLACES, _DEATHS = 32, 64
_FIRST_DEATH = _TICK.size + _PLACES * _PLACE.size


class Life:
    """The signs of life of one upkeep process after the other. The supervisor makes it, before it forks."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _FIRST_DEATH + _DEATHS * _DEATH.size)
        self._lock = threading.Lock()
        self._free = list(range(_PLACES))
        self._deaths: dict[str, int] = {}

    # The upkeep process.

    def begin(self) -> None:
        """A new process begins: what its predecessor had at hand was its death."""
        self.tick()
        at_hand = {what for since, what in self._places() if since}
        counted = (_DEATH.unpack_from(self._memory, _FIRST_DEATH + place * _DEATH.size) for place in range(_DEATHS))
        before = {_text(what): times for times, what in counted if times}
        for place in range(_PLACES):
            self._put(place, 0.0, "")
        self._deaths = {what: before.get(what, 0) + 1 for what in at_hand} | {
            what: times for what, times in before.items() if what not in at_hand
        }
        self._keep_deaths()

    def tick(self) -> None:
        """The process runs."""
        _TICK.pack_into(self._memory, 0, time.monotonic())

    @contextmanager
    def at(self, what: str) -> Iterator[None]:
        """The calling thread is at something. Within it, something else may take its place for a while."""
        outer = _here.at
        if outer:
            outer.pause()
        with self._lock:
            place = self._free.pop()
        _here.at = own = _AtHand(self, place, what[:56])
        own.go_on()
        try:
            yield
        finally:
            own.pause()
            with self._lock:
                self._free.append(place)
            self.forget(what)
            _here.at = outer
            if outer:
                outer.go_on()

    @staticmethod
    def go_on() -> None:
        """What the calling thread is at goes on."""
        if _here.at:
            _here.at.go_on()

    def is_deadly(self, what: str) -> bool:
        """Whether upkeep was killed at it too often."""
        return self._deaths.get(what, 0) >= DEADLY

    def forget(self, what: str) -> None:
        """It has ended, or is left alone: its deaths don't count any more."""
        with self._lock:
            if self._deaths.pop(what, 0):
                self._keep_deaths()

    def _keep_deaths(self) -> None:
        kept = list(self._deaths.items())[:_DEATHS]
        for place, (what, times) in enumerate([*kept, *[("", 0)] * (_DEATHS - len(kept))]):
            _DEATH.pack_into(self._memory, _FIRST_DEATH + place * _DEATH.size, times, what.encode())

    def _put(self, place: int, since: float, what: str) -> None:
        _PLACE.pack_into(self._memory, _TICK.size + place * _PLACE.size, since, what.encode())

    # The supervisor.

    def stands_still(self, now: float, born: float) -> str | None:
        """What stands still in the process that was started then (both monotonic), if anything does."""
        (tick,) = _TICK.unpack_from(self._memory, 0)
        if now - max(tick, born) > STILL:
            return "all of it"
        late = [(since, what) for since, what in self._places() if since and max(since, born) <= now - STILL]
        return min(late)[1] if late else None

    def _places(self) -> Iterator[tuple[float, str]]:
        for place in range(_PLACES):
            since, what = _PLACE.unpack_from(self._memory, _TICK.size + place * _PLACE.size)
            yield since, _text(what)


class _AtHand:
    """What a thread is at."""

    def __init__(self, life: Life, place: int, what: str) -> None:
        self._life, self._place, self._what = life, place, what

    def go_on(self) -> None:
        self._life._put(self._place, time.monotonic(), self._what)

    def pause(self) -> None:
        self._life._put(self._place, 0.0, self._what)


class _Here(threading.local):
    at: _AtHand | None = None


_here = _Here()


def _text(what: bytes) -> str:
    return what.rstrip(b"\0").decode("utf-8", "replace")


def watch_connections() -> None:
    """In the upkeep process: from now on, to wait for a database is no standing still."""
    connection_created.connect(_watch, weak=False, dispatch_uid="durable_queue.upkeep.life")


def _watch(connection: BaseDatabaseWrapper, **_: object) -> None:
    if _in_database not in connection.execute_wrappers:
        connection.execute_wrappers.append(_in_database)
        # A COMMIT may wait too, for a standby; Django has no wrapper for it.
        connection._commit = _paused(connection._commit)  # type: ignore[attr-defined]


def _in_database(execute: Callable[..., Any], *arguments: Any) -> Any:
    return _paused(execute)(*arguments)


def _paused(wait: Callable[..., Any]) -> Callable[..., Any]:
    def paused(*arguments: Any) -> Any:
        at = _here.at
        if at is None:
            return wait(*arguments)
        at.pause()
        try:
            return wait(*arguments)
        finally:
            at.go_on()

    return paused
