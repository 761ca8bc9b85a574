"""Do short jobs in a thread of their own, so that one that hangs holds up no other: it is set aside, and the others go on."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

from django.db import connections

from durable_queue.store.databases import discard

PATIENCE = 0.2  # seconds that the others wait for a job; then it goes on aside
ENOUGH = 1.0  # seconds after which no other job begins: those that have ended should not wait for all
MOST = 16  # jobs aside; then no other begins, until one of them has ended or the process is replaced
KEPT = 60.0  # seconds for which the result of a job that was aside is kept

Key = TypeVar("Key", bound=Hashable)
Job = TypeVar("Job")
Result = TypeVar("Result")


class Aside(Generic[Key, Job, Result]):
    """Does jobs of one kind."""

    def __init__(self, do: Callable[[Job], Result], *, goes_on: Callable[[], None]) -> None:
        """`do`: does one job. It must not raise. `goes_on`: is called now and then by the thread that waits for them."""
        self._do = do
        self._goes_on = goes_on
        self._changed = threading.Condition()
        self._aside: set[Key] = set()  # the keys of the jobs that have not ended yet
        self._done: dict[Key, tuple[float, Result]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a job is aside."""
        return bool(self._aside)

    def do_all(self, jobs: Mapping[Key, Job]) -> dict[Key, Result]:
        """Do these jobs, in their order; return the results of those that have ended.

        One that was set aside has its result when it is asked for again under its key.
        """
        enough = time.monotonic() + ENOUGH
        todo = deque(key for key in jobs if key not in self._aside and key not in self._done)
        while todo and len(self._aside) < MOST and time.monotonic() < enough:
            thread = _Thread(self, jobs, todo)
            thread.start()
            with self._changed:
                while not thread.has_ended and (left := min(thread.late, enough) - time.monotonic()) > 0:
                    self._changed.wait(left)
                    self._goes_on()
                thread.has_todo = False
                if thread.key is not None:
                    self._aside.add(thread.key)
        now = time.monotonic()
        with self._changed:
            results = {key: self._done.pop(key)[1] for key in jobs if key in self._done}
            self._done = {key: done for key, done in self._done.items() if now - done[0] < KEPT}
        return results


class _Thread(threading.Thread, Generic[Key, Job, Result]):
    """Does one job after the other, until there is none, or one takes so long that another thread does the rest."""

    def __init__(self, aside: Aside[Key, Job, Result], jobs: Mapping[Key, Job], todo: deque[Key]) -> None:
        super().__init__(name="aside", daemon=True)
        self.key: Key | None = None  # of the job that it is at
        self.late = time.monotonic() + PATIENCE  # when the others should not wait for it any more
        self.has_todo = True
        self.has_ended = False
        self._aside, self._jobs, self._todo = aside, jobs, todo

    def run(self) -> None:
        aside = self._aside
        while (key := self._next()) is not None:
            result = aside._do(self._jobs[key])
            _close_what_is_left_open()
            with aside._changed:
                aside._done[key] = (time.monotonic(), result)
                aside._aside.discard(key)
                self.key = None
        connections.close_all()

    def _next(self) -> Key | None:
        with self._aside._changed:
            self.has_ended = not (self.has_todo and self._todo)
            if not self.has_ended:
                self.key, self.late = self._todo.popleft(), time.monotonic() + PATIENCE
            self._aside._changed.notify_all()
            return self.key


def _close_what_is_left_open() -> None:
    """A project's own code has run: what it has left in a transaction is none of the next job's."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block or not connection.autocommit:
            discard(connection.alias)
        else:
            connection.close_if_unusable_or_obsolete()
