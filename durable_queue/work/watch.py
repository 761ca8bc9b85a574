"""Watches a worker's threads from outside.

A slow task holds up no other. One that is over its limit is interrupted. One that does not heed that makes the worker retire.
"""

import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from django.db import Error as DatabaseError
from django_q.conf import logger

from durable_queue.store import queue_connection, wakeup
from durable_queue.store.leases import LeaseLostError
from durable_queue.task import limits
from durable_queue.task.limits import HEED
from durable_queue.work import kernel
from durable_queue.work.attempt import LATE
from durable_queue.work.crew import Crew, Member
from durable_queue.work.habits import QUICK
from durable_queue.work.holdings import Holdings
from durable_queue.work.pace import SLOW_AFTER
from durable_queue.work.progress import Progress
from durable_queue.work.requests import Requests
from durable_queue.work.stop import Stop

TICK = 0.25  # seconds between two looks
CLOSE = 0.01  # seconds between two looks while something is in hand that isn't known to be quick
SOONEST = 0.01  # the shortest pause
CLOSE_FOR = 1.0  # seconds for which it looks so often, from the last time that it was told to
SETTLE_AFTER = 0.05  # seconds that a finished task waits for its batch: what a killed worker had finished in them runs again
NAMING = 0.5  # seconds between two times that the worker's row is changed to name the tasks that take long
BRIEFLY = 0.05  # seconds that this waits for the database
BUSY = 0.8  # the share of the time between two looks, in which a process that has processor to spare uses less of it
PROBE = 0.0002  # seconds for which it lets go of the interpreter's lock, to see how soon it has it again
PUNCTUAL = 0.004  # seconds that it may wake up late where no thread computes: one that does lets others in after 0.005


def _computes(leader: Member) -> bool:
    """Whether the leader wants the processor at this moment, or any thread of this process computes in Python.

    One that computes holds the interpreter's lock for 5 ms at a time
    (https://docs.python.org/3/library/sys.html#sys.setswitchinterval).
    """
    before = time.monotonic()
    time.sleep(PROBE)  # without the lock
    return time.monotonic() - before > PROBE + PUNCTUAL or kernel.is_runnable(leader.native_id)


class Watch:
    """The watch over one worker."""

    def __init__(self, holdings: Holdings, crew: Crew, progress: Progress, stop: Stop) -> None:
        self.look_at_coroutines: Callable[[float], None] | None = None
        self.returned = 0  # rows that it has given back since the last claim
        self._holdings = holdings
        self._crew = crew
        self._progress = progress
        self._stop = stop
        self._requests = Requests()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._close_until = 0.0
        self._next_look_at_limits = 0.0
        self._next_limit = math.inf  # when (monotonic) something may be over its limit next, as far as it knows
        self._next_naming = 0.0
        self._looked = (time.monotonic(), time.process_time())

    def closely(self) -> None:
        """Look often for a while. For any thread."""
        was_close = self._close_until
        self._close_until = now = time.monotonic() + CLOSE_FOR
        if was_close < now - CLOSE_FOR:
            with suppress(RuntimeError):  # it was rung already
                self._bell.release()

    def run(self) -> None:
        """Look, until the worker is over."""
        self._progress.work()
        while not self._stop.is_over:
            self._progress.tick()
            before = time.monotonic()
            pause = self._pause(before)
            self._stop.hear_if_told()
            rang = self._bell.acquire(timeout=pause)
            is_punctual = not rang and time.monotonic() - before < pause + PUNCTUAL
            try:
                self._look(is_punctual=is_punctual)
            except LeaseLostError:
                self._stop.abandon(self._holdings.me)
            except BaseException:
                logger.exception("The watch over %s goes on after an error", self._holdings.me)

    def run_in_thread(self) -> None:
        """The same, in a thread of its own. Signals are for the main thread, which runs the tasks."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.run()

    def _pause(self, now: float) -> float:
        pause = CLOSE if now < self._close_until else TICK
        return max(SOONEST, min(pause, self._next_limit - now))

    def _look(self, *, is_punctual: bool) -> None:
        now, processor = time.monotonic(), time.process_time()
        (then, used), self._looked = self._looked, (now, processor)
        has_processor = is_punctual and processor - used < BUSY * (now - then)
        leader = self._crew.leader
        began = leader.began if leader else 0.0
        if leader and began and now - began >= QUICK and self._crew.size > 1 and has_processor and not _computes(leader):
            if habit := leader.habit:
                habit.note_waits()
            self._crew.pass_lead(leader, began)
        self._settle_if_held_up(now)
        self._name_long_tasks(now)
        if self.look_at_coroutines:
            self.look_at_coroutines(now)
        self._next_limit = limits.interrupt_all(now)
        self._retire_if_overdue(now)
        self._requests.look(now)
        self._crew.write_lock.look(now)

    # Finished tasks and rows that were not started, while the leader is busy.

    def _settle_if_held_up(self, now: float) -> None:
        holdings, leader = self._holdings, self._crew.leader
        busy = now - leader.began if leader and leader.began else 0.0
        is_late = bool(holdings.finished) and now - holdings.oldest_finish > SETTLE_AFTER
        is_stuck = bool(holdings.unstarted) and (self._stop.noted or now - holdings.claimed > SLOW_AFTER)
        is_leader_free = leader is not None and busy <= SETTLE_AFTER
        if is_leader_free or not (is_late or is_stuck):
            return
        if is_stuck:
            self.returned += holdings.return_unstarted()
        holdings.settle_and_claim(patient=False, names_tasks=is_stuck)
        if is_stuck:
            self._next_naming = now + NAMING
            wakeup.wake(holdings.broker.queue)

    # What takes long.

    def _name_long_tasks(self, now: float) -> None:
        """Neither another thread's transaction nor a task that holds SQLite's write lock may hold up the watch."""
        holdings = self._holdings
        if now < self._next_naming or not (holdings.long_tasks.are_named or holdings.long_tasks.are_there(now)):
            return
        self._next_naming = now + NAMING
        with queue_connection.held_if_free() as is_free:
            if is_free and holdings.long_tasks.to_store(holdings.in_hand) is not None:
                with suppress(DatabaseError), holdings.broker.table.waits_at_most(BRIEFLY):  # it tries again
                    holdings.settle_and_claim(patient=False, names_tasks=True)

    # What is over its limit.

    def _retire_if_overdue(self, now: float) -> None:
        if self._stop.noted or self._crew.size == 1 or now < self._next_look_at_limits:
            return  # in the main thread a signal ends what is over its limit, even a blocking call
        self._next_look_at_limits = now + TICK
        for in_hand in self._progress.in_hand:
            if in_hand.is_overdue(now + LATE - HEED):
                what = f"Task {in_hand.task_id}" if in_hand.row else ", ".join(limits.over(now)) or "A hook"
                logger.error("%s is overdue after %.0f s, and can't be interrupted", what, time.time() - in_hand.started)
                self._stop.retire("something is overdue")
                return
