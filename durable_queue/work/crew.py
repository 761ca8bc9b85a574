"""The threads of a worker: one leads, the others run what they have in hand, or wait for the lead.

The leader takes task after task and runs each itself, so that a quick one is never handed from thread to thread. When its
task is slow, it keeps the task and passes on the lead ("leader and followers": Schmidt, O'Ryan, Kircher and Pyarali,
https://www.dre.vanderbilt.edu/~schmidt/PDF/lf.pdf).
"""

import threading
from collections.abc import Callable

from django_q.conf import logger

from durable_queue.store import queue_connection
from durable_queue.task import running
from durable_queue.task.limits import Limit, MainThreadLimit
from durable_queue.work import task_connections
from durable_queue.work.habits import Habit
from durable_queue.work.progress import Progress
from durable_queue.work.slot import Slot
from durable_queue.work.surroundings import Surroundings
from durable_queue.work.write_lock import Holder, WriteLock

IDLE = 10.0  # seconds after which a thread that has nothing to do closes its connections and ends


class Member:
    """One thread of a worker."""

    def __init__(self, number: int, slot: Slot) -> None:
        self.number = number
        self.slot = slot
        self.began = 0.0  # when (monotonic) it began what it is busy with; 0 while it is not
        self.habit: Habit | None = None  # that of the function that it is busy with
        self.native_id = 0
        self.thread = threading.current_thread()
        self.holder = Holder()
        self.bell = threading.Lock()  # released to give it the lead
        self.bell.acquire()


class Crew:
    """A worker's threads."""

    def __init__(self, size: int, progress: Progress, surroundings: Surroundings, lead: Callable[[Member], None]) -> None:
        """`lead`: what a thread does that has the lead, until it has passed it on."""
        self.size = size
        self.passes = 0  # how often the lead was passed on, or given up
        self.leader: Member | None = None  # None: all threads are busy, and the first that finishes leads
        self.write_lock = WriteLock()
        self._progress = progress
        self._lead = lead
        self._surroundings = surroundings
        self._lock = threading.Lock()
        self._idle: list[Member] = []
        self._numbers = list(range(size - 1, -1, -1))

    @property
    def free(self) -> int:
        """How many threads there are, or could be, that neither lead nor are busy."""
        return len(self._idle) + len(self._numbers)

    def lead_alone(self) -> None:
        """Lead in this very thread, until there is nothing more to do."""
        self.leader = Member(0, self._progress.slot(self._numbers.pop()))
        MainThreadLimit().join()
        self.leader.holder = self.write_lock.join()
        self._lead(self.leader)

    def start(self) -> None:
        """Start the first thread, which leads."""
        with self._lock:
            self.leader = self._hire()
        self.leader.bell.release()

    def pass_lead(self, member: Member, began: float) -> bool:
        """Let another thread lead, if this one leads and is busy with what it began then; return whether another does."""
        with self._lock:
            if self.leader is not member or member.began != began:
                return False
            self.passes += 1
            if not self.free:
                self.leader = None
                return False
            try:
                self.leader = successor = self._idle.pop() if self._idle else self._hire()
            except RuntimeError as error:  # the system has no thread left
                logger.warning("The lead can't be passed on: %s", error)
                return False
        successor.bell.release()
        return True

    def finish(self, member: Member) -> bool:
        """A thread is done with what it was busy with: it leads if it did so before, or if no thread does. Return whether."""
        with self._lock:
            member.began, member.habit = 0.0, None
            if self.leader is None:
                self.leader = member
            return self.leader is member

    def _hire(self) -> Member:
        number = self._numbers.pop()
        member = Member(number, self._progress.slot(number))
        member.thread = threading.Thread(target=self._live, args=(member,), name=f"tasks-{number}", daemon=True)
        running.adopt_thread(member.thread)
        try:
            member.thread.start()
        except RuntimeError:
            running.release_thread(member.thread)
            self._numbers.append(number)
            raise
        return member

    def _live(self, member: Member) -> None:
        queue_connection.share()
        self._surroundings.join()
        task_connections.join_worker()
        member.native_id = threading.get_native_id()
        limit = Limit()
        limit.join()
        member.holder = self.write_lock.join()
        while self._is_wanted(member):
            self._lead(member)
            while not self._go_idle(member):
                self._lead(member)
        limit.leave()
        self.write_lock.leave(member.holder)
        task_connections.close_all()
        running.release_thread(member.thread)

    def _go_idle(self, member: Member) -> bool:
        """Wait for the lead from now on, unless the thread that led has given it up meanwhile: then this one leads."""
        with self._lock:
            if self.leader is None:
                self.leader = member
                return False
            self._idle.append(member)
            return True

    def _is_wanted(self, member: Member) -> bool:
        """Wait for the lead; return whether it came before the thread was idle for too long."""
        if member.bell.acquire(timeout=IDLE):
            return True
        with self._lock:
            if member in self._idle:
                self._idle.remove(member)
                self._numbers.append(member.number)
                return False
        return member.bell.acquire()
