"""The supervisor: keeps the workers alive, reaps the dead, and can always be stopped.

It opens no database connection and takes no lock, so nothing can hold it up. Signal handlers only note a wish, and wake
its loop through a pipe; so does the death of a child.
"""

import gc
import os
import select
import signal
import time
import uuid
from collections import deque
from contextlib import suppress

from django.db import connections
from django_q.conf import Conf, logger

from durable_queue.cluster.child import SIGNALS, Child
from durable_queue.cluster.starter import Starter
from durable_queue.conf import cluster_conf
from durable_queue.work import kernel, worker
from durable_queue.work.progress import Stage, Verdict
from durable_queue.work.stop import MORE_ALONE

LOOK = 1.0  # seconds between two looks at the children, when nothing happens
LATE_TO_SETTLE = 10.0  # seconds for which a worker with nothing but overdue tasks in hand may settle what has finished
STUCK = 5.0  # seconds without a sign of life, after which a child is killed
QUICK = 1.0  # a child that lived shorter (seconds) died quickly,
BURST = 20  # and after so many quick deaths within SPAN seconds
SPAN = 10.0
MOST_RETIRING = 3  # retiring workers for each worker; beyond them, fewer workers are started in their place
MOST_ALONE = 4  # workers of the tasks that run alone
LOOK_FOR_ORPHANS = 5.0  # seconds after the death of a worker
END_WAIT = 1.0  # seconds that killed processes have to be gone
CALM = 1.0  # each further start waits so long (seconds)


class Supervisor:
    """One cluster: its workers and its upkeep process."""

    def __init__(self, *, workers: int, threads: int, run_once: bool = False) -> None:
        """`threads`: tasks that each worker runs at once. `run_once`: end when the workers found nothing due any more."""
        self.id = str(uuid.uuid4())
        self.size = workers
        self.threads = threads
        self.run_once = run_once
        self.workers: list[Child] = []
        self.alone: list[Child] = []  # workers of the tasks that run alone
        self.retiring: list[Child] = []  # workers that end once nothing is in their hand; they have been replaced
        self.upkeep: Child | None = None
        self.restarts = 0
        self.stop_wishes = 0
        self.to_recycle: deque[Child] = deque()
        self._unfinished = workers  # with `run_once`: workers that have not found yet that nothing is due
        self._recycle_wish = False
        self._wants_alone = False  # whether a task that runs alone may wait for a worker
        self._deadline = float("inf")
        self._look_for_orphans_until = 0.0
        self._inherited: set[int] = set()  # children that it had from its beginning
        self._quick_deaths: deque[float] = deque()
        self._starter = Starter(self.id, threads=threads, run_once=run_once)

    def run(self) -> int:
        """Work until told to stop; return the exit code."""
        cluster_conf.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        kernel.adopt_orphans()
        self._inherited = kernel.children()  # of a shell that has executed this program
        connections.close_all()  # a connection must not be forked
        gc.freeze()  # what is loaded stays: children that looked through it would copy the pages that they share
        self._listen()
        logger.info("Cluster %s starts with %d workers of %d threads", Conf.CLUSTER_NAME, self.size, self.threads)
        while True:
            try:
                self._look_after_children()
                if self._is_over:
                    break
            except Exception:
                logger.exception("The supervisor goes on after an error")
                time.sleep(LOOK)
            self._wait()
            if self.stop_wishes > 1:
                return self._quit()
        return self._finish()

    def _listen(self) -> None:
        signal.set_wakeup_fd(self._starter.wakes[1], warn_on_full_buffer=False)

        def note(number: int, _frame: object) -> None:
            if number in (signal.SIGTERM, signal.SIGINT):
                self.stop_wishes += 1
            elif number == signal.SIGHUP:
                self._recycle_wish = True

        for number in SIGNALS:
            signal.signal(number, note)

    def _wait(self) -> None:
        pause = min(LOOK, max(0.02, self._deadline - time.monotonic()))
        select.select([self._starter.wakes[0]], [], [], pause)
        with suppress(BlockingIOError):
            self._wants_alone |= MORE_ALONE in os.read(self._starter.wakes[0], 4096)

    @property
    def _all_workers(self) -> list[Child]:
        return [*self.workers, *self.alone, *self.retiring]

    # One look.

    def _look_after_children(self) -> None:
        if self.stop_wishes and self._deadline == float("inf"):
            logger.info("Cluster %s stops", Conf.CLUSTER_NAME)
            self._deadline = time.monotonic() + cluster_conf.grace
            for child in self._all_workers:
                child.stop()
        self._reap()
        if time.monotonic() < self._look_for_orphans_until:
            self._kill_orphans()
        if self.stop_wishes:
            if time.monotonic() > self._deadline:
                for child in self._all_workers:
                    child.kill(Verdict.PARDONED)
            return
        self._kill_stuck()
        self._recycle()
        self._replace_retiring()
        self._start_missing()

    def _reap(self) -> None:
        for group in (self.workers, self.alone, self.retiring):
            for child in [child for child in group if child.is_dead]:
                group.remove(child)
                self.restarts += 1
                self._note_death(child)
                if child.process.exitcode not in (0, worker.AGAIN):
                    logger.error("A worker (pid %d) died: exit code %s", child.pid, child.process.exitcode)
                elif self.run_once:
                    self._note_drained(child)
                self._report_death()
                self._look_for_orphans_until = time.monotonic() + LOOK_FOR_ORPHANS
        if self.upkeep and self.upkeep.is_dead:
            logger.error("The upkeep process died: exit code %s", self.upkeep.process.exitcode)
            self._note_death(self.upkeep)
            self.upkeep = None

    def _kill_orphans(self) -> bool:
        """Kill what the tasks of dead workers have left running; return whether there was something."""
        return kernel.kill_orphans(self._inherited | {child.pid for child in (*self._all_workers, self.upkeep) if child})

    def _note_drained(self, child: Child) -> None:
        """With `run_once`: a worker has found that nothing is due, or one has run tasks alone: they may have enqueued more."""
        if not child.is_alone and child.process.exitcode == 0:
            self._unfinished -= 1
        elif child.is_alone and child.process.exitcode == worker.AGAIN:
            self._unfinished = self.size

    def _note_death(self, child: Child) -> None:
        if time.monotonic() - child.born < QUICK:
            self._quick_deaths.append(time.monotonic())

    def _report_death(self) -> None:
        with suppress(OSError):
            os.write(self._starter.orders[1], b"!")

    def _kill_stuck(self) -> None:
        """Kill workers that have nothing but overdue tasks in hand, or that give no sign of life."""
        now = time.monotonic()
        for child in self._all_workers:
            if child.progress is None:
                continue
            in_hand = child.progress.in_hand
            overdue = [task for task in in_hand if task.is_overdue(now)]
            going_on = [task for task in in_hand if task not in overdue and task.stage is not Stage.HELD_UP]
            is_silent = now - max(child.progress.last_tick, child.born) > STUCK
            is_settled = not child.progress.finished or all(task.is_overdue(now - LATE_TO_SETTLE) for task in overdue)
            if overdue and (is_silent or (is_settled and not going_on)):
                logger.error("A worker (pid %d) is overdue, and killed", child.pid)
                child.kill(Verdict.OVERDUE)
            elif is_silent and (kernel.is_stopped(child.pid) or not (in_hand or child.progress.finished)):
                logger.error("A worker (pid %d) gave no sign of life for %d s, and is killed", child.pid, STUCK)
                child.kill()
        if self.upkeep and kernel.is_stopped(self.upkeep.pid):
            self.upkeep.kill()

    def _replace_retiring(self) -> None:
        """A worker that retires claims nothing more: its successor starts at once."""
        for child in [child for child in self.workers if child.told_to_stop or (child.progress and child.progress.retires)]:
            self.workers.remove(child)
            self.retiring.append(child)

    def _start_missing(self) -> None:
        if self.upkeep is None and not self._is_stormy():
            self.upkeep = self._starter.start_upkeep()
        wanted = self._unfinished if self.run_once else self.size
        wanted = min(wanted, max(1, wanted - (len(self.retiring) - MOST_RETIRING * self.size)))
        while len(self.workers) < wanted and not self._is_stormy():
            self.workers.append(self._starter.start_worker(self.restarts))
        if self._wants_alone and not self._is_stormy():
            self._wants_alone = False
            if len(self.alone) < MOST_ALONE and all(child.progress and child.progress.in_hand for child in self.alone):
                self.alone.append(self._starter.start_worker(self.restarts, alone=True))

    def _is_stormy(self) -> bool:
        """Whether children die so quickly, one after the other, that a new one had better wait."""
        now = time.monotonic()
        while self._quick_deaths and now - self._quick_deaths[0] > SPAN:
            self._quick_deaths.popleft()
        return len(self._quick_deaths) > BURST and now - self._quick_deaths[-1] < CALM

    def _recycle(self) -> None:
        """SIGHUP: replace the workers one by one. Each finishes its tasks in hand while its successor works."""
        if self._recycle_wish:
            self._recycle_wish = False
            self.to_recycle = deque(self.workers)
            for child in self.alone:
                child.stop()
        while self.to_recycle and self.to_recycle[0] not in self.workers:
            self.to_recycle.popleft()
        all_work = len(self.workers) == self.size and all(child.progress and child.progress.works for child in self.workers)
        if self.to_recycle and all_work and not self.to_recycle[0].told_to_stop:
            self.to_recycle[0].told_to_stop = True
            self.to_recycle[0].stop()

    # The end.

    @property
    def _is_over(self) -> bool:
        is_drained = self.run_once and self._unfinished <= 0 and not self._wants_alone
        return not self._all_workers and (bool(self.stop_wishes) or is_drained)

    def _finish(self) -> int:
        """End the upkeep process, which frees what killed workers have left, within the grace."""
        self._end_orphans()
        if self.upkeep:
            os.close(self._starter.orders[1])
            self.upkeep.process.join(max(2.0, min(cluster_conf.grace, 5.0)))
            if not self.upkeep.is_dead:
                self.upkeep.kill()
                self.upkeep.process.join(2.0)
        logger.info("Cluster %s has stopped", Conf.CLUSTER_NAME)
        return 0

    def _quit(self) -> int:
        """The second signal: exit now."""
        for child in (*self._all_workers, self.upkeep):
            if child:
                child.kill(Verdict.PARDONED)
        deadline = time.monotonic() + END_WAIT
        while any(not child.is_dead for child in self._all_workers) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._end_orphans()
        return 1

    def _end_orphans(self) -> None:
        """The workers have ended: nothing that their tasks have started outlives them, nor what that has started."""
        deadline = time.monotonic() + END_WAIT
        while self._kill_orphans() and time.monotonic() < deadline:
            time.sleep(0.01)
