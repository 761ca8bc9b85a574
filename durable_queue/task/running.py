"""A running function learns here which task it is part of, for an idempotency key.

The context goes along with `asyncio.to_thread`, `sync_to_async`, `asyncio.gather` and a fork. A bare thread has none
(https://docs.python.org/3/library/contextvars.html): `task_of_caller` tells whom it works for (`callers.py`).
"""

import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Protocol

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


class RunningTask:
    """One attempt at a task. Its id stays the same in every attempt, and when a failed task is retried."""

    call = 0  # the index of the call in hand among the task's calls
    era = 0  # when it began: see `_Process`
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


class _Process:
    """What this process knows of its tasks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.in_hand: set[RunningTask] = set()  # run by this very process
        self.inherited: RunningTask | None = None  # in a forked child: the one that forked it
        self.last = ""  # the id of the task that began last
        self.era = 0  # goes on when threads that tasks have left behind may get work from another task, or a hook
        self.own = frozenset(threading.enumerate())  # the worker's threads, whose tasks their contexts tell
        self.alive = list(self.own)
        self.has_stragglers = False  # whether threads of another era were alive when the last task began
        self.started_under = weakref.WeakKeyDictionary[threading.Thread, RunningTask | None](dict.fromkeys(self.own))

    @property
    def sole(self) -> RunningTask | None:
        """The task in hand; None when there is none, or several."""
        tasks = tuple(self.in_hand)
        return tasks[0] if len(tasks) == 1 else None

    def note_threads(self) -> None:
        """Note of each thread the task that was in hand when it started, or that none was, or several."""
        if threading.active_count() == len(self.own) == len(self.alive):
            return
        alive = threading.enumerate()
        if alive != self.alive:
            self.alive = alive
            for thread in alive:
                self.started_under.setdefault(thread, self.sole)

    def begin(self, task: RunningTask) -> None:
        with self.lock:
            self.in_hand.add(task)
            task.began_next_to_others = len(self.in_hand) > 1
            if task.id != self.last or task.began_next_to_others:  # another attempt at the same task is no other task
                self.last = task.id
                self.era += 1
            task.era = self.era
            self.has_stragglers = len(self.alive) > len(self.own) and any(map(self._is_straggler, self.alive))

    def end(self, task: RunningTask) -> None:
        with self.lock:
            self.note_threads()
            self.in_hand.discard(task)
            if self.in_hand:
                self.has_stragglers = self.has_stragglers or len(self.alive) > len(self.own)

    def _is_straggler(self, thread: threading.Thread) -> bool:
        if thread in self.own or not thread.is_alive():
            return False
        task = self.started_under.get(thread)
        return task is None or task.era != self.era

    def adopt(self, thread: threading.Thread) -> None:
        """Make a thread one of the worker's own."""
        with self.lock:
            self.own |= {thread}
            self.started_under[thread] = None
            self.note_threads()

    def release(self, thread: threading.Thread) -> None:
        """A thread of the worker's own is about to end."""
        with self.lock:
            self.own -= {thread}

    def become_child(self) -> None:
        """In a forked child: it runs no attempt; those that it knows are its parent's."""
        self.lock = threading.Lock()
        self.inherited = current_task.get() or self.sole or self.inherited
        self.in_hand = set()


this_process = _Process()
os.register_at_fork(after_in_child=this_process.become_child)


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


def paths_in_hand() -> list[str]:
    """The functions of the tasks that this process runs, by their dotted paths."""
    return sorted({task.path for task in tuple(this_process.in_hand)})


adopt_thread, release_thread = this_process.adopt, this_process.release
