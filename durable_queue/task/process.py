"""What a process knows of its tasks: which are in hand, and under which of them each of its threads has started."""

import threading
from threading import Thread
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from durable_queue.task.running import RunningTask


class Process:
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
        self.started_under: WeakKeyDictionary[Thread, RunningTask | None] = WeakKeyDictionary(dict.fromkeys(self.own))

    @property
    def sole(self) -> "RunningTask | None":
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

    def begin(self, task: "RunningTask") -> None:
        with self.lock:
            self.in_hand.add(task)
            task.began_next_to_others = len(self.in_hand) > 1
            if task.id != self.last or task.began_next_to_others:  # another attempt at the same task is no other task
                self.last = task.id
                self.era += 1
            task.era = self.era
            self.has_stragglers = len(self.alive) > len(self.own) and any(map(self._is_straggler, self.alive))

    def end(self, task: "RunningTask") -> None:
        with self.lock:
            self.note_threads()
            self.in_hand.discard(task)
            if self.in_hand:
                self.has_stragglers = self.has_stragglers or len(self.alive) > len(self.own)

    def _is_straggler(self, thread: Thread) -> bool:
        if thread in self.own or not thread.is_alive():
            return False
        task = self.started_under.get(thread)
        return task is None or task.era != self.era

    def adopt(self, thread: Thread) -> None:
        """Make a thread one of the worker's own."""
        with self.lock:
            self.own |= {thread}
            self.started_under[thread] = None
            self.note_threads()

    def release(self, thread: Thread) -> None:
        """A thread of the worker's own is about to end."""
        with self.lock:
            self.own -= {thread}

    def become_child(self, current: "RunningTask | None") -> None:
        """In a forked child: it runs no attempt; those that it knows are its parent's. `current`: the context's."""
        self.lock = threading.Lock()
        self.inherited = current or self.sole or self.inherited
        self.in_hand = set()


this_process = Process()
