"""A running function learns here which task it is part of, for an idempotency key.

The context goes along with `asyncio.to_thread`, `sync_to_async`, `asyncio.gather` and a fork. A bare thread has none
(https://docs.python.org/3/library/contextvars.html): `task_of_caller` tells whom it works for (`callers.py`).
"""

import itertools
import os
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Protocol

from durable_queue.task.cancelled import Cancellable
from durable_queue.task.process import this_process

# Calls that are none of the task's own: the receivers of `pre_execute` and of `post_execute_in_worker`.
BEFORE, AFTER = -2, -1


class Keeper(Protocol):
    """The worker that runs an attempt, as far as the attempt needs it."""

    def is_held(self, row: int) -> bool:
        """Whether the worker still holds the queue row with this id. Raises django.db.Error when the database can't tell."""

    def is_in_hand(self, task_id: str) -> bool:
        """Whether the worker runs this task now, also as a forked child of the worker sees it."""

    def begun(self) -> int:
        """How many tasks the worker has begun, also as a forked child of the worker sees it."""

    def keep_note(self, task_id: str, text: str) -> None:
        """Keep a note of the task."""


class RunningTask(Cancellable):
    """One attempt at a task. Its id stays the same in every attempt, and when a failed task is retried."""

    call = 0  # the index of the call in hand among the task's calls
    era = 0  # when it began: see `Process`
    begun = 0  # how many tasks its worker had begun by then, itself included
    began = 0.0  # when (monotonic)
    started: datetime  # the same moment by the clock
    began_next_to_others = False  # whether other tasks were in hand when it began
    function: tuple[str, object] | None = None  # the call's function, by its dotted path: its retry policy holds
    # Told of each of the task's calls, its path and function; gives the seconds that it may take. And asked at its end, to
    # raise what keeps it from having been made.
    entered_call: Callable[[str, object], float] | None = None
    leaving_call: Callable[[], None] | None = None
    writes = 0  # how many the call in hand has made: which of them version 0.1 called which (notifications/log/legacy.py)
    _has_calls = False
    _told: frozenset[str] = frozenset()

    def __init__(
        self,
        id: str,  # noqa: A002
        path: str = "",
        *,
        row: int = 0,
        claimed: float | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """`path`: the dotted path of the task's function. `row`: the id of its queue row.

        `claimed`: when (monotonic) its worker asked for the row; now, if it isn't given.
        """
        self.id = id  # 32 hexadecimal digits, in the order of queueing (durable_queue/task/identifiers.py)
        self.path = path
        self.row = row
        self.claimed = time.monotonic() if claimed is None else claimed
        self.results: list[object] = []  # of its calls that were made, in order
        self._keeper = keeper
        self._asked: dict[Hashable, itertools.count[int]] = {}

    def enter_calls(self, path: str) -> bool:
        """Whether the function with this path, which runs several calls in order, is the task's own, and runs its calls now.

        One that is called inside of a call does not: the call keeps its index, whatever it does.
        """
        is_own = self.path == path and not self._has_calls
        self._has_calls = self._has_calls or is_own
        return is_own

    def come_to(self, index: int, path: str) -> None:
        """Another of the task's calls is next, whose function is not found yet."""
        self.call, self.function = index, (path, None)

    def begin_call(self, index: int, path: str, func: object) -> float:
        """Go on to the next of the task's calls; return the seconds that it may take, 0.0 for any."""
        self.call, self.function, self.writes = index, (path, func), 0
        return self.entered_call(path, func) if self.entered_call else 0.0

    def end_call(self) -> None:
        """The call has returned. Raises what keeps it from having been made."""
        if self.leaving_call:
            self.leaving_call()

    def count(self, what: Hashable) -> int:
        """How often this attempt has asked for this before. Threads may ask at once: each step is atomic."""
        asked = self._asked.get(what)
        if asked is None:
            asked = self._asked.setdefault(what, itertools.count())
        return next(asked)

    @property
    def is_in_hand(self) -> bool:
        """Whether this attempt goes on, seen from any thread and from forked children."""
        if this_process.inherited and self._keeper:
            return self._keeper.is_in_hand(self.id)
        return self in this_process.in_hand or self is this_process.inherited

    @property
    def has_been_alone(self) -> bool:
        """Whether its process has run no other task and no hook since it began: its threads can only work for it."""
        if self.began_next_to_others:
            return False
        if this_process.inherited:
            return self._keeper is None or self._keeper.begun() == self.begun
        return self.era == this_process.era

    def is_held(self) -> bool:
        """Whether its worker still holds the task. Raises django.db.Error when the database can't tell."""
        return self._keeper is None or self._keeper.is_held(self.row)

    def note(self, text: str) -> None:
        """Have the task's history say this, once, whatever becomes of it. For any thread, and for forked children.

        At most 400 bytes are kept. It is lost when the worker is killed in the next moment.
        """
        if self._keeper and text not in self._told:
            self._told |= {text}
            self._keeper.keep_note(self.id, text)


current_task: ContextVar[RunningTask | None] = ContextVar("current_task", default=None)
os.register_at_fork(after_in_child=lambda: this_process.become_child(current_task.get()))


def begin(task: RunningTask) -> None:
    """Make this a task in hand, and the context's."""
    this_process.begin(task)
    current_task.set(task)


def end(task: RunningTask) -> None:
    """The task is in hand no more. What it has left running learns it by `is_in_hand`."""
    this_process.end(task)
    current_task.set(None)


@contextmanager
def others() -> Iterator[None]:
    """Between two tasks, hooks and receivers run within this: what they start or ask for is none of a task's."""
    with this_process.lock:
        this_process.last = ""
        this_process.era += 1
    yield
    with this_process.lock:
        this_process.note_threads()


def prepare_worker() -> None:
    """In a new worker, once its own threads have started: those that are alive now live as long as it does."""
    this_process.note_threads()
    this_process.own = frozenset(this_process.alive)


def tasks_in_hand() -> tuple[RunningTask, ...]:
    """The tasks that this process runs."""
    return tuple(this_process.in_hand)


def paths_in_hand() -> list[str]:
    """The functions of the tasks that this process runs, by their dotted paths."""
    return sorted({task.path for task in tasks_in_hand()})


adopt_thread, release_thread = this_process.adopt, this_process.release
