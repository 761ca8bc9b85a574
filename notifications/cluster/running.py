"""Tells a function that a worker runs which task it is part of: what it needs for an idempotency key.

The context goes along with `asyncio.to_thread`, `sync_to_async`, `asyncio.gather` and a fork. A bare thread has none
(https://docs.python.org/3/library/contextvars.html): `task_of_caller` tells whom it works for.
"""

import mmap
import os
import struct
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from contextvars import ContextVar

# Calls that are none of the task's own: the receivers of `pre_execute` and of `post_execute_in_worker`.
BEFORE, AFTER = -2, -1

# The modules whose threads and processes work for whoever gives them something to do, and not for who has started them.
POOLS = ("concurrent.futures.thread", "concurrent.futures.process", "multiprocessing.pool")


class RunningTask:
    """One attempt at a task. Its id stays the same in every attempt, and when a failed task is submitted again."""

    def __init__(
        self,
        id: str,  # noqa: A002
        path: str = "",
        *,
        is_held: Callable[[], bool] = lambda: True,
        tell: Callable[[str, str], None] | None = None,
    ) -> None:
        """`path`: the dotted path of the task's function.

        `is_held`: whether the worker still holds the task. `tell`: keeps a note of the task with this id.
        """
        self.id = id  # 32 hexadecimal digits, in the order of queueing (notifications/cluster/identifiers.py)
        self.path = path
        self.call = 0  # the index of the call in hand among the task's calls
        self.function: tuple[str, object] | None = None  # the call's function, by its dotted path: its retry policy holds
        self.began = time.monotonic()
        self.is_held = is_held
        self._tell = tell
        self._told: set[str] = set()
        self._pid = os.getpid()
        self.number = -1  # among the attempts of its worker, once it is in hand
        self._has_calls = False
        self._asked: Counter[Hashable] = Counter()
        self._mutex = threading.Lock()

    def enter_calls(self, path: str) -> bool:
        """Whether the function with this path, which runs several calls in order, is the task's own, and runs its calls now.

        One that is called inside of a call does not: the call keeps its index, whatever it does.
        """
        is_own = self.path == path and not self._has_calls
        self._has_calls = self._has_calls or is_own
        return is_own

    def begin_call(self, index: int, path: str, func: object) -> None:
        """Go on to the next of the task's calls."""
        self.call, self.function = index, (path, func)

    def count(self, what: Hashable) -> int:
        """How often this attempt has asked for this before. Threads may ask at once."""
        with self._mutex:
            self._asked[what] += 1
            return self._asked[what] - 1

    @property
    def is_in_hand(self) -> bool:
        """Whether this attempt goes on, seen from any thread and from forked children."""
        return _process.in_hand.number == self.number

    @property
    def is_here(self) -> bool:
        """Whether this process runs the attempt: a forked child has a copy, whose counts are its own."""
        return self._pid == os.getpid()

    def note(self, text: str) -> None:
        """Have the task's history say this, once, whatever becomes of it. For any thread, and for forked children.

        At most some 400 bytes are kept. It is lost when the worker is killed in the next moment.
        """
        if self._tell and text not in self._told:
            self._told.add(text)
            self._tell(self.id, text)


current_task: ContextVar[RunningTask | None] = ContextVar("current_task", default=None)


class InHand:
    """The number of the attempt in hand, in memory that a worker shares with the children that its tasks fork."""

    _NUMBER = struct.Struct("=Q")

    def __init__(self) -> None:
        """Nothing is in hand."""
        self._shared = mmap.mmap(-1, self._NUMBER.size)
        self._begun = 0

    def begin(self) -> int:
        """Number another attempt, which is the one in hand from now on."""
        self._begun += 1
        self._NUMBER.pack_into(self._shared, 0, self._begun)
        return self._begun

    def end(self) -> None:
        """Nothing is in hand any more."""
        self._NUMBER.pack_into(self._shared, 0, 0)

    @property
    def number(self) -> int:
        """That of the attempt in hand; 0 when there is none."""
        found: int = self._NUMBER.unpack_from(self._shared)[0]
        return found


class _Process:
    """What this process knows of its tasks."""

    def __init__(self) -> None:
        self.in_hand = InHand()
        self.task: RunningTask | None = None
        self.alive: list[threading.Thread] = []
        self.started_under: weakref.WeakKeyDictionary[threading.Thread, RunningTask | None] = weakref.WeakKeyDictionary()

    def note_threads(self) -> None:
        """Note of each thread the task that was in hand when it started, or that none was."""
        alive = threading.enumerate()
        if alive != self.alive:
            self.alive = alive
            for thread in alive:
                self.started_under.setdefault(thread, self.task)


_process = _Process()


def begin(task: RunningTask) -> None:
    """Make this the task in hand, and the context's."""
    _process.note_threads()
    task.number = _process.in_hand.begin()
    _process.task = task
    current_task.set(task)


def end() -> None:
    """Nothing is in hand any more. What the task has left running learns it by `is_in_hand`."""
    _process.note_threads()
    _process.task = None
    current_task.set(None)
    _process.in_hand.end()


def prepare_worker() -> None:
    """In a new worker: share no memory with others."""
    _process.in_hand = InHand()


def task_of_caller() -> RunningTask | None:
    """The task that the calling thread or process works for; None outside of tasks, and where nobody can tell.

    It is the context's. A thread without one works for the task that was in hand when it started. Of a pool that outlives
    its task nobody can tell: it may work for another one by now.
    """
    task = current_task.get()
    if task and task.is_here:
        return task
    task = task or _process.started_under.get(threading.current_thread(), _process.task)
    return None if task is None or (not task.is_in_hand and _is_in_pool()) else task


def _is_in_pool() -> bool:
    frame = sys._getframe()
    while frame.f_back:
        frame = frame.f_back
        if frame.f_globals.get("__name__") in POOLS:
            return True
    return False
