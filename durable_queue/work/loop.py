"""A worker's loop: django-q2's own, fed straight from the queue table.

`django_q.worker.worker` asks of its two queues only `get` and `put`. It is given a `Feed` for both: `get` hands out the
next row of a batch that was claimed, `put` keeps the result until the batch is settled. Settling one batch and claiming
the next is one transaction.
"""

import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.db import Error as DatabaseError
from django.db import connections
from django.utils import timezone
from django_q.conf import Conf, error_reporter, logger

from durable_queue.conf import cluster_conf
from durable_queue.models import Worker
from durable_queue.store import wakeup
from durable_queue.store.broker import Broker
from durable_queue.store.leases import LeaseChange, LeaseLostError, Row, Settlement
from durable_queue.store.notes import keep_notes
from durable_queue.store.queue_connection import QUEUE
from durable_queue.task import running
from durable_queue.task.running import BEFORE, RunningTask, current_task
from durable_queue.work import outcomes
from durable_queue.work.progress import LONGEST_READ, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

from durable_queue.work.announcements import announce
from durable_queue.work.keeper import Keeper
from durable_queue.work.receivers import has_receivers_before
from durable_queue.work.stop import Stop

TICK = 0.25  # seconds between two looks of the guard thread
SETTLE_AFTER = 0.05  # seconds that a finished task waits for its batch: what a killed worker had finished in them runs again
SLOW_AFTER = 0.5  # seconds that a worker keeps rows that it has not started, and results, while a slow task runs
POLL = (0.2, 2.0)  # shortest and longest pause (seconds) between two looks at the table, when no hint came
SOON = 0.005  # the pause (seconds) after a hint that came too early; it grows from there
LINGER = 0.02  # pause (seconds) that lets a batch grow, after one of LINGER_FROM rows or more that was not full
LINGER_FROM = 3
DATABASE_PAUSE = (0.1, 2.0)  # first and longest pause (seconds) after a database error
LATE = 3  # seconds that an overdue task has to heed its timeout, before the process is killed


SIMPLE = (type(None), bool, int, float, str, bytes)


class Feed:
    """Both queues of django-q2's worker loop, on top of the table."""

    def __init__(self, broker: Broker, me: Worker, progress: Progress, stop: Stop, *, run_once: bool) -> None:
        """`me`: this process's row, stored."""
        self.broker = broker
        self.me = me
        self.progress = progress
        self.stop = stop
        self.is_drained = False  # with `run_once`: whether nothing was due any more
        self._ear = wakeup.Ear(broker.queue, stop.wakes)
        self._run_once = run_once
        self._mutex = threading.Lock()  # between this process's two threads
        self._unstarted: deque[Row] = deque()
        self._keeper = Keeper(me, progress)
        self._noted: list[tuple[str, str]] = []  # read, and not in the database yet
        self._returning: list[Row] = []  # given back, but the database may not know it yet
        self._unsure = False  # whether the last claim was committed
        self._untold: list[LeaseChange] = []  # whose hooks and signals are still to come
        self._finished: list[Settlement] = []
        self._in_hand: Row | None = None
        self._task: dict[str, Any] = {}
        self._func: Callable[..., Any] | None = None
        self._began = 0.0
        self._started = datetime.now(UTC)
        self._last_claim = 0
        self._claiming = 0.0  # before the claim of the rows in hand
        self._claimed = 0.0  # after it
        self._claim_size = cluster_conf.claim
        self._last_settled = 0.0
        self._hints: Sequence[int] = ()
        self._pause = POLL[0]
        self._error_pause = DATABASE_PAUSE[0]

    # What django-q2's worker loop calls.

    def get(self) -> dict[str, Any] | str:
        """The next task, or "STOP"."""
        while not self.stop.noted:
            self._announce_settled()
            if not self._is_to_settle():
                with self._mutex:
                    task = self._next_started()
                if task:
                    return task
            if not self._settle_and_claim_or_wait():
                self.is_drained = True
                break
        self.close()
        return "STOP"

    def put(self, task: dict[str, Any]) -> None:
        """Keep a finished task until it is settled."""
        with self._mutex:
            if self._in_hand is None:
                return
            task = {**task, "func": self._task["func"], "started": self._started}
            if task["success"] and not isinstance(task["result"], SIMPLE):
                try:
                    pickle.dumps(task["result"])
                except Exception as error:
                    task["success"] = False
                    task["result"] = f"Its result can't be pickled: {error} : {traceback.format_exc()}"
            mine = current_task.get()
            function = mine.function if mine and mine.function else (self._task["path"], self._func)
            self._finished.append(outcomes.settle_finished(self._in_hand, task, str(self.me), function))
            self._end()

    def fail_in_hand(self, error: BaseException) -> None:
        """Make a failed attempt of what escaped django-q2's worker loop: `sys.exit`, a module that raises on import …"""
        if self._in_hand is not None:
            _report()
            try:
                text = f"{error!r} : {''.join(traceback.format_exception(error))}"
            except Exception:
                text = f"{type(error).__name__}, which can't be shown"
            self.put({**self._task, "success": False, "result": text, "stopped": timezone.now()})
        else:
            logger.error("%s goes on after an error", self.me, exc_info=error)
            time.sleep(DATABASE_PAUSE[1])

    def close(self) -> None:
        """Settle what is finished, give back what is not started, and end the lease; waits for the database."""
        done = False
        while not done:
            with self._mutex:
                self._returning += self._unstarted
                self._unstarted.clear()
                lease = self._settle_and_claim()
                done = lease is not None and not self._unstarted
            if lease is not None:
                self._untold.append(lease)
        wakeup.wake(self.broker.queue)  # a hint may have been for this one
        self._announce_settled()

    # The worker's own part.

    def _is_to_settle(self) -> bool:
        return bool(self._finished) and time.monotonic() - self._last_settled > SETTLE_AFTER

    def _next_started(self) -> dict[str, Any] | None:
        while self._unstarted:
            row = self._unstarted.popleft()
            task = self._start(row)
            if task:
                return task
        return None

    def _start(self, row: Row) -> dict[str, Any] | None:
        """Read a row and note it as the one in hand; one that can't be run is finished at once."""
        self._in_hand, self._task, self._func = row, {}, None
        self._began = time.monotonic()
        self._started = datetime.now(UTC)
        self.progress.begin(row.id, self._began + (Conf.TIMEOUT or LONGEST_READ) + LATE)
        try:
            self._task = outcomes.read(row)
            timeout = outcomes.timeout_of(self._task)
            self.progress.run(self._task["id"], 0.0 if timeout < 0 else time.monotonic() + timeout + LATE)
            attempt = RunningTask(self._task["id"], self._task["path"], row=row.id, claimed=self._claiming, keeper=self._keeper)
            running.begin(attempt)
            self._func, call = outcomes.function_of(self._task)
            if has_receivers_before():
                attempt.call = BEFORE
        except outcomes.RefusedError as error:
            _report()
            self._finished.append(outcomes.settle_refused(row, str(error), str(self.me), self._task))
            self._end()
            return None
        except BaseException as error:
            # Unpickling or importing runs code of others.
            _report()
            stopped = {"success": False, "stopped": timezone.now(), "started": self._started}
            failed = {**self._task, **stopped, "result": f"{error!r} : {traceback.format_exc()}"}
            self._finished.append(outcomes.settle_finished(row, failed, str(self.me)))
            self._end()
            return None
        return {**self._task, "func": call, "timeout": timeout}

    def _end(self) -> None:
        self._in_hand = None
        running.end()
        self.progress.end()

    def _settle_and_claim_or_wait(self) -> bool:
        """Settle and claim; wait for a while when nothing came. Returns whether to go on."""
        claim = 0 if self._unstarted else self._claim_size
        if claim and LINGER_FROM <= self._last_claim < claim and not self._run_once:
            time.sleep(LINGER)
        hints, self._hints = self._hints, ()
        announced = [number for number in hints if number]
        if self._finished and self._last_claim < LINGER_FROM:
            os.sched_yield()  # a process that waits for the task's effect may need this processor: settling is less urgent
        with self._mutex:
            # After a hint there is something to claim, most likely: to look first would only take time.
            if not (self._finished or self._unsure or hints) and (pause := self._pause_until_due()) > 0:
                lease = None
            else:
                pause = 0.0
                lease = self._settle_and_claim(claim, announced)
        if lease is not None:
            if lease.settled:
                self._untold.append(lease)
            if claim:
                self._note_claim(lease, len(announced))
            return True
        if self._run_once and pause > 0:
            return False
        if pause > 0:
            self._keep_notes()  # a task's threads and children may outlive it
            self._hints = self._ear.wait(min(pause, self._pause))
            if not self._hints:
                self._pause = min(self._pause * 1.5, POLL[1])
        return True

    def _note_claim(self, lease: LeaseChange, announced: int) -> None:
        size = len(lease.rows)
        if size == self._claim_size or 0 < size < announced:
            wakeup.wake(self.broker.queue)  # there may be more, or come more; this worker is busy now
        if time.monotonic() - self._claimed < SLOW_AFTER / 2:
            self._claim_size = min(self._claim_size * 2, cluster_conf.claim)
        self._last_claim, self._claimed = size, time.monotonic()
        if lease.rows:
            self._pause = POLL[0]
        elif announced:
            self._pause = SOON  # it isn't there yet
        elif not lease.settled:
            self._hints = self._ear.wait(POLL[0])  # it is due, but somebody has locked it, and may for long

    def _pause_until_due(self) -> float:
        """Seconds until a row is due; the longest pause when none is, or the database does not answer."""
        try:
            due = self.broker.wait_until_due()
        except DatabaseError as error:
            self._wait_out(error)
            return 0.0
        self._error_pause = DATABASE_PAUSE[0]
        return POLL[1] if due is None else due

    def _settle_and_claim(self, claim: int = 0, announced: Sequence[int] = ()) -> LeaseChange | None:
        """Settle and claim once, under the mutex; None when the database could not be reached or failed."""
        try:
            lease = self._recover() if self._unsure else None
            if lease is None:
                self._unsure = bool(claim)  # until we have heard that it was committed
                if claim:
                    self._claiming = time.monotonic()
                lease = self.broker.settle_and_claim(self.me, self._finished, self._returning, claim, announced)
        except LeaseLostError:
            raise
        except Exception as error:
            if outcomes.is_unstorable(error):
                self._unsure = False
                self._settle_one_by_one(error)
            else:
                self._wait_out(error)
            return None
        self._unsure = False
        self._error_pause = DATABASE_PAUSE[0]
        self._last_settled = time.monotonic()
        self._finished, self._returning = [], []
        self._unstarted.extend(lease.rows)
        self._keep_notes()
        return lease

    def _keep_notes(self) -> None:
        self._noted += self._keeper.notes.read()
        if self._noted:
            try:
                keep_notes(self._noted, using=self.broker.using)
                self._noted = []
            except DatabaseError as error:
                logger.warning("%s could not keep %d notes yet: %s", self.me, len(self._noted), str(error).strip())

    def _recover(self) -> LeaseChange | None:
        """The lease of a claim that was committed, though its answer was lost; None when it wasn't."""
        lease = self.broker.recover(self.me)
        if lease:
            lease.settled = self._finished
        return lease

    def _settle_one_by_one(self, error: Exception) -> None:
        """Something among what is finished can't be stored: find it, and have it failed instead."""
        logger.error("%s can't settle its batch: %r", self.me, error)
        time.sleep(DATABASE_PAUSE[0])
        try:
            while self._finished:
                settlement = self._finished[0]
                try:
                    lease = self.broker.settle_and_claim(self.me, [settlement])
                except Exception as found:
                    if not outcomes.is_unstorable(found):
                        raise
                    lease = self.broker.settle_and_claim(self.me, [outcomes.settle_unstorable(settlement, found)])
                del self._finished[0]
                self._untold.append(lease)
        except DatabaseError as again:
            self._wait_out(again)

    def _wait_out(self, error: Exception) -> None:
        """Wait after a database error, longer each time. The next try opens a new connection."""
        logger.warning("%s waits %.1f s for the database: %s", self.me, self._error_pause, str(error).strip())
        connections[QUEUE].close()
        time.sleep(self._error_pause)
        self._error_pause = min(self._error_pause * 2, DATABASE_PAUSE[1])

    def _announce_settled(self) -> None:
        while self._untold:
            announce(self._untold.pop(0), self.progress)

    # The guard thread: a slow task holds back nobody.

    def guard(self) -> None:
        """Look after the task in hand, for ever: once it is slow, settle what is finished and give back what waits."""
        self.progress.work()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the thread that runs the task
        while True:
            self.progress.tick()
            time.sleep(TICK)
            if not self._is_held_up():
                continue
            with self._mutex:
                if self._is_held_up():
                    self._settle_beside_task()

    def _settle_beside_task(self) -> None:
        # What is given back is not run here any more, whether or not that got through: the next settlement says it again.
        returned, self._unstarted = list(self._unstarted), deque()
        self._returning += returned
        try:
            lease = self.broker.settle_and_claim(self.me, self._finished, self._returning)
        except LeaseLostError:
            os._exit(1)  # the task in hand runs elsewhere already
        except Exception as error:
            logger.warning("%s could not settle while a slow task ran: %s", self.me, str(error).strip())
            connections[QUEUE].close()
            return
        self._finished, self._returning = [], []
        self._untold.append(lease)  # for the other thread: a hook is not this one's to run
        if returned:  # next time, no more than was started in this time
            self._claim_size = max(1, self._last_claim - len(returned))
            wakeup.wake(self.broker.queue)

    def _is_held_up(self) -> bool:
        if self._in_hand is None:
            return False
        now = time.monotonic()
        return bool(
            (self._unstarted and now - self._claimed > SLOW_AFTER)
            or ((self._finished or self._returning) and now - self._began > SLOW_AFTER)
        )


def _report() -> None:
    """Tell the configured error reporters of the exception at hand; django-q2's loop does so with those that it sees."""
    try:
        if error_reporter:
            error_reporter.report()
    except Exception:
        logger.exception("An error reporter failed")
