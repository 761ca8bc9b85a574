"""The supervisor: keeps the workers alive, reaps the dead, and can always be stopped.

It opens no database connection and takes no lock, so nothing can hold it up.
"""

import gc
import os
import select
import time
import uuid
from collections import deque
from contextlib import suppress

from django.db import connections
from django_q.conf import Conf, logger

from durable_queue.cluster.child import Child
from durable_queue.cluster.parent import Parent
from durable_queue.cluster.starter import Starter
from durable_queue.conf import cluster_conf
from durable_queue.work import kernel, worker
from durable_queue.work.progress import Verdict
from durable_queue.work.slot import Stage
from durable_queue.work.stop import MORE_ALONE

LOOK = 1.0  # seconds between two looks at the children, when nothing happens
LATE_TO_SETTLE = 10.0  # seconds for which a worker with nothing but overdue tasks in hand may settle what has finished
STUCK = 5.0  # seconds without a sign of life, after which a child is killed
MOST_RETIRING = 3  # retiring workers for each worker; beyond them, fewer workers are started in their place
MOST_ALONE = 4  # workers of the tasks that run alone


class Supervisor(Parent):
    """One cluster: its workers and its upkeep process."""

    same_wish = 0.2  # systemd sends SIGTERM to each process of a unit, and the service's parent passes its own on

    def __init__(self, *, workers: int, threads: int, run_once: bool = False) -> None:
        """`threads`: tasks that each worker runs at once. `run_once`: end when the workers found nothing due any more."""
        super().__init__(logger.error)
        self.id = str(uuid.uuid4())
        self.size = workers
        self.threads = threads
        self.run_once = run_once
        self.workers: list[Child] = []
        self.alone: list[Child] = []  # workers of the tasks that run alone
        self.retiring: list[Child] = []  # workers that end once nothing is in their hand; they have been replaced
        self.upkeep: Child | None = None
        self.restarts = 0
        self.to_recycle: deque[Child] = deque()
        self._unfinished = workers  # with `run_once`: workers that have not found yet that nothing is due
        self._wants_alone = False  # whether a task that runs alone may wait for a worker
        self._deadline = float("inf")
        self._starter = Starter(self.id, self.wakes, threads=threads, run_once=run_once)

    def run(self) -> int:
        """Work until told to stop; return the exit code."""
        cluster_conf.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        connections.close_all()  # a connection must not be forked
        gc.freeze()  # what is loaded stays: children that looked through it would copy the pages that they share
        self.listen()
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
        return self._finish()

    def _wait(self) -> None:
        pause = min(LOOK, max(0.02, self._deadline - time.monotonic()))
        select.select([self.wakes[0]], [], [], pause)
        self._wants_alone |= MORE_ALONE in self.wake_bytes()

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
        self.kill_orphans_for_a_while()
        if self.stop_wishes:
            if time.monotonic() > self._deadline:
                for child in self._all_workers:
                    child.kill(Verdict.PARDONED)
            if self._all_workers:
                self._keep_upkeep()  # without heartbeats, other hosts would take them for dead
            return
        self._kill_stuck()
        self._keep_upkeep()
        self._recycle()
        self._replace_retiring()
        self._start_missing()

    def _reap(self) -> None:
        for group in (self.workers, self.alone, self.retiring):
            for child in [child for child in group if child.is_dead]:
                group.remove(child)
                self.restarts += 1
                self.note_death(child.born)
                if child.exitcode not in (0, worker.AGAIN):
                    logger.error("A worker (pid %d) died: exit code %s", child.pid, child.exitcode)
                elif self.run_once:
                    self._note_drained(child)
                self._report_death()
        if self.upkeep and self.upkeep.is_dead:
            logger.error("The upkeep process died: exit code %s", self.upkeep.exitcode)
            self.note_death(self.upkeep.born)
            self.upkeep = None

    def own_pids(self) -> set[int]:
        return {child.pid for child in (*self._all_workers, self.upkeep) if child}

    def kill_all(self) -> None:
        for child in (*self._all_workers, self.upkeep):
            if child:
                child.kill(Verdict.PARDONED)

    def _note_drained(self, child: Child) -> None:
        """With `run_once`: a worker has found that nothing is due, or one has run tasks alone: they may have enqueued more."""
        if not child.is_alone and child.exitcode == 0:
            self._unfinished -= 1
        elif child.is_alone and child.exitcode == worker.AGAIN:
            self._unfinished = self.size

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

    def _keep_upkeep(self) -> None:
        """Start the upkeep process if there is none. One that stands still is killed, so that the next look finds none."""
        if self.upkeep is None:
            self.upkeep = self.try_start(self._starter.start_upkeep)
            return
        now = time.monotonic()
        if still := self._starter.signs.stands_still(now, self.upkeep.born):
            logger.error("Upkeep (pid %d) stands still, and is replaced: %s", self.upkeep.pid, still)
            self.upkeep.kill()
        elif kernel.is_stopped(self.upkeep.pid):
            self.upkeep.kill()

    def _replace_retiring(self) -> None:
        """A worker that retires claims nothing more: its successor starts at once."""
        for child in [child for child in self.workers if child.told_to_stop or (child.progress and child.progress.retires)]:
            self.workers.remove(child)
            self.retiring.append(child)

    def _start_missing(self) -> None:
        wanted = self._unfinished if self.run_once else self.size
        wanted = min(wanted, max(1, wanted - (len(self.retiring) - MOST_RETIRING * self.size)))
        while len(self.workers) < wanted and (child := self.try_start(lambda: self._starter.start_worker(self.restarts))):
            self.workers.append(child)
        wants_alone, self._wants_alone = self._wants_alone, False  # upkeep goes on saying so
        are_busy = all(child.progress and child.progress.in_hand for child in self.alone)
        if wants_alone and are_busy and len(self.alone) < MOST_ALONE:
            child = self.try_start(lambda: self._starter.start_worker(self.restarts, alone=True))
            self.alone += [child] if child else []
            self._wants_alone = child is None

    def _recycle(self) -> None:
        """SIGHUP: replace the workers one by one. Each finishes its tasks in hand while its successor works."""
        if self.hangups:
            self.hangups = 0
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
        self.end_orphans()
        if self.upkeep:
            os.close(self._starter.orders[1])
            self.upkeep.join(max(2.0, min(cluster_conf.grace, 5.0)))
            if not self.upkeep.is_dead:
                self.upkeep.kill()
                self.upkeep.join(2.0)
        logger.info("Cluster %s has stopped", Conf.CLUSTER_NAME)
        return 0
