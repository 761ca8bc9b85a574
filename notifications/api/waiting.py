"""Clients that wait for the end of a task. One thread of this process looks for all of them, every 100 ms.

A client that waits holds a place: a future, and no thread or connection. The thread asks by one statement which of the
awaited tasks have ended, and by another one for the state of those. It never waits for other requests, nor do they for it. What
it sees is right whichever host runs a task. While the database does not answer, one look is under way and no more, and clients
get 503 when their time is up.
"""

import asyncio
import functools
import resource
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from logging import getLogger
from queue import SimpleQueue
from typing import TypeVar

from django.db import InterfaceError, OperationalError, ProgrammingError, connections
from django.http import HttpRequest

from durable_queue import status
from durable_queue.status import TaskStatus

logger = getLogger(__name__)

LOOK = 0.1  # seconds between the beginnings of two looks; a slow one delays the next
AGAIN = 0.5  # the same, after a look that failed
ANSWER = 1.0  # seconds that a client waits for the database when its time is up; then it gets 503
MOST = 2000  # clients that wait in one process, if it may have twice as many files: others must be able to connect

AWAY = OperationalError, InterfaceError, ProgrammingError  # what the database says of itself or its tables, not of a row

T = TypeVar("T")
# The tasks that have ended; states, of those and others, or why one can't be told.
Seen = tuple[Collection[str], dict[str, TaskStatus | Exception]]
Look = Callable[[], Seen]


class NoPlaceError(Exception):
    """Nobody can wait: too many do already, or the service stops."""


@dataclass(eq=False, kw_only=True)
class _Place:
    """A client that waits."""

    task_id: str
    until: float  # the loop's time at which it gets the present state
    answer: "asyncio.Future[TaskStatus | None]"


class _Looker(threading.Thread):
    """The thread. It ends with the process, whatever it waits for."""

    def __init__(self) -> None:
        super().__init__(name="waiting clients", daemon=True)
        self._jobs: SimpleQueue[tuple[Look, asyncio.Future[Seen]]] = SimpleQueue()
        self.start()

    def look(self, look: Look) -> "asyncio.Future[Seen]":
        """Look, in the thread; return what will be seen."""
        seen: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self._jobs.put((look, seen))
        return seen

    def run(self) -> None:
        """Look whenever somebody asks for it."""
        while True:
            look, seen = self._jobs.get()
            try:
                tell: Callable[[], None] = functools.partial(seen.set_result, look())
            except Exception as error:
                tell = functools.partial(seen.set_exception, error)
                connections.close_all()  # the next look opens another one
            try:
                seen.get_loop().call_soon_threadsafe(tell)
            except RuntimeError:  # the loop is closed: the process ends
                return


def look_for(awaited: Collection[str], wanted: Collection[str]) -> Seen:
    """Which of the awaited tasks have ended; their states, and those that are wanted anyway. Raises django.db.Error.

    A task that can't be looked at, such as one with an odd row, counts as ended, and its error takes the state's place.
    """
    failed: dict[str, Exception] = {}
    ended = {*_each(status.have_ended, [*awaited], failed), *failed}
    asked = ended.union(wanted) - failed.keys()
    states = dict(_each(lambda task_ids: status.statuses(task_ids).items(), [*asked], failed))
    return ended, {**states, **failed}


def _each(look: Callable[[Sequence[str]], Iterable[T]], task_ids: Sequence[str], failed: dict[str, Exception]) -> list[T]:
    """What a look at these tasks finds; of those that spoil it for the others, the errors, in `failed`."""
    try:
        return [*look(task_ids)] if task_ids else []
    except AWAY:
        raise
    except Exception as error:
        if len(task_ids) == 1:
            failed[task_ids[0]] = error
            return []
        middle = len(task_ids) // 2
        return _each(look, task_ids[:middle], failed) + _each(look, task_ids[middle:], failed)


class Waiting:
    """The places of the clients that one event loop serves."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(MOST, files // 2)
        self._places: set[_Place] = set()
        self._looker = _Looker()
        self._seen: asyncio.Future[Seen] | None = None  # of the look that is under way
        self._next_look = 0.0
        self._is_ticking = False
        self._has_failed = False

    def place(self, task_id: str, seconds: float) -> _Place:
        """Take a place. Raises NoPlaceError."""
        if len(self._places) >= self._most:
            raise NoPlaceError
        place = _Place(task_id=task_id, until=self.loop.time() + seconds, answer=self.loop.create_future())
        self._places.add(place)
        return place

    def leave(self, place: _Place) -> None:
        """Free the place."""
        self._places.discard(place)

    def tick(self, is_stopping: Callable[[], bool]) -> None:
        """Begin to look, if nobody does, and to see to it that nobody waits for too long."""
        if not self._is_ticking:
            self._is_ticking = True
            self.loop.call_soon(self._tick, is_stopping)

    def _tick(self, is_stopping: Callable[[], bool]) -> None:
        self._is_ticking = bool(self._places)
        if not self._is_ticking:
            return
        self.loop.call_later(LOOK, self._tick, is_stopping)
        now = self.loop.time()
        if is_stopping():
            for place in self._places:
                place.until = min(place.until, now)
        for place in self._places:
            if now > place.until + ANSWER and not place.answer.done():
                place.answer.set_exception(OperationalError("the database does not answer those who wait"))
        if self._seen is None and now >= self._next_look:
            self._look(now)

    def _look(self, now: float) -> None:
        over = [place for place in self._places if place.until <= now]
        wanted = {place.task_id for place in over}
        awaited = {place.task_id for place in self._places} - wanted
        self._seen = self._looker.look(lambda: look_for(awaited, wanted))
        self._seen.add_done_callback(lambda seen: self._answer(seen, over))

    def _answer(self, seen: "asyncio.Future[Seen]", over: Iterable[_Place]) -> None:
        """Answer those whose task has ended, and those whose time was up."""
        self._seen = None
        if error := seen.exception():
            self._next_look = self.loop.time() + AGAIN
            self._note_failure(error)
            return
        self._has_failed = False
        ended, states = seen.result()
        for place in [*over, *(place for place in self._places if place.task_id in ended)]:
            if place.answer.done():
                continue
            found = states.get(place.task_id)
            if isinstance(found, Exception):
                place.answer.set_exception(found)
            else:
                place.answer.set_result(found)

    def _note_failure(self, error: BaseException) -> None:
        if not self._has_failed:  # one line for each time that the database is away
            logger.error("The ends of tasks can't be looked for: %s", str(error).strip() or repr(error))
        self._has_failed = True


class _Here:
    """The one `Waiting` of this process, which has one event loop."""

    waiting: Waiting | None = None


async def status_at_end(request: HttpRequest, task_id: str, seconds: float) -> TaskStatus | None:
    """The task's state once it has ended, or after so many seconds; None if it is not known.

    Raises NoPlaceError at once, and django.db.Error when the time is up and the database can't be asked.
    """
    is_stopping = stop_of(request)
    if is_stopping():
        raise NoPlaceError
    waiting = _Here.waiting
    if waiting is None or waiting.loop is not asyncio.get_running_loop():
        waiting = _Here.waiting = Waiting()
    place = waiting.place(task_id, seconds)
    try:
        waiting.tick(is_stopping)
        return await place.answer
    finally:  # when the client hangs up, too
        waiting.leave(place)


def stop_of(request: HttpRequest) -> Callable[[], bool]:
    """Whether the service is about to stop: the server of `scripts/serve` tells that, in the scope's `state`."""
    stopping = getattr(request, "scope", {}).get("state", {}).get("stopping")
    return stopping.is_set if stopping else lambda: False
