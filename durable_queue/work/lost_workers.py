"""Workers that were killed, or whose host is lost: free their leases, and charge the task that each had in hand."""

import math
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from django.db import transaction
from django_q.conf import logger

from durable_queue.models import Worker
from durable_queue.store.broker import Broker
from durable_queue.store.freeing import free, rows_in_hand
from durable_queue.store.leases import Settlement, home_queue
from durable_queue.work import kernel
from durable_queue.work.follow_ups import queue_hook
from durable_queue.work.outcomes import is_unstorable, settle_lost, settle_unstorable
from durable_queue.work.progress import Progress, Verdict, delete, progress_path

LOST_AFTER = 9.0  # seconds without a heartbeat, after which a host is lost: freed within 15 s, with the checks' pace
LATE_BEAT = 6.0  # seconds between two of the observer's own looks, after which it has seen too little to tell


class Observer:
    """Watches the heartbeats of workers whose processes this host can't see. It compares no clocks.

    A worker is lost when the value of its heartbeat has not changed for `LOST_AFTER` of the observer's own monotonic clock,
    while the observer itself got through to the database all the time.
    """

    def __init__(self, *, has_heartbeat: bool = False) -> None:
        """`has_heartbeat`: this process sends some, and sees too little to tell while they don't get through."""
        self._seen: dict[int, tuple[datetime, float]] = {}  # by the worker's id: its heartbeat, and since when it is the same
        self._looked = 0.0
        self._beaten = -math.inf if has_heartbeat else math.inf

    def note_heartbeat(self) -> None:
        """A heartbeat got through."""
        self._beaten = time.monotonic()

    def begin_anew(self) -> None:
        """Forget what was seen: the observer did not get through, nor perhaps did the others."""
        self._seen = {}

    def look(self, heartbeats: Mapping[int, datetime]) -> set[int]:
        """Take in the present heartbeats, by the workers' ids; return the ids of those that are lost."""
        now = time.monotonic()
        if now - min(self._looked, self._beaten) > LATE_BEAT:
            self.begin_anew()
        self._looked = now
        seen = self._seen
        self._seen = {
            worker: seen[worker] if seen.get(worker, (None,))[0] == heartbeat else (heartbeat, now)
            for worker, heartbeat in heartbeats.items()
        }
        return {worker for worker, (_, since) in self._seen.items() if now - since >= LOST_AFTER}


def free_dead(broker: Broker, observer: Observer | None = None) -> int:
    """Free the leases of all workers that are dead; return how many. Raises django.db.Error.

    On this host the kernel tells, at once and without doubt; of other hosts, and of processes that are hidden from this
    user, their heartbeats tell the observer, if there is one.
    """
    here = kernel.host_id()
    dead, unseen = [], {}
    for worker in Worker.objects.using(broker.using):
        is_alive = kernel.is_alive(worker.pid, worker.born) if worker.host == here else None
        if is_alive is None:
            unseen[worker.pk] = worker
        elif not is_alive:
            dead.append(worker)
    if observer:
        lost = observer.look({pk: worker.heartbeat for pk, worker in unseen.items()})
        dead += [unseen[pk] for pk in lost]
    freed, failure = 0, None
    for worker in dead:
        try:
            freed += _free(broker, worker)
        except Exception as error:
            if is_unstorable(error):
                logger.exception("%s can't be freed", worker)
            else:
                failure = failure or error  # its rows may be locked, by a host that is lost: the others can be freed
    if failure:
        raise failure
    return freed


def _free(broker: Broker, worker: Worker) -> bool:
    path = progress_path(worker.name)
    charged, suspects = _read_and_blame(broker, worker, path)
    try:
        freed = _free_and_queue_hooks(broker, worker, charged, suspects)
    except Exception as error:
        if not charged or not is_unstorable(error):
            raise
        charged = [settle_unstorable(settlement, error) for settlement in charged]
        freed = _free_and_queue_hooks(broker, worker, charged, suspects)
    if freed:
        for settlement in charged:
            if settlement.attempt:
                logger.error("%s of '%s': %s", settlement.attempt, settlement.task["path"], settlement.attempt.error)
        if suspects:
            logger.error("%s died with %d tasks in hand: from now on each of them runs alone", worker, len(suspects))
    if freed or not Worker.objects.using(broker.using).filter(pk=worker.pk).exists():
        delete(path)  # not while it may hold another lease, whose rows are still to be judged by this file
    return freed


def _read_and_blame(broker: Broker, worker: Worker, path: Path) -> tuple[list[Settlement], list[int]]:
    """As `_blame`; nobody is charged if the file is not there, or can't be read."""
    if not path.exists():
        return [], []
    try:
        return _blame(broker, worker, Progress(path))
    except (OSError, ArithmeticError, ValueError) as error:  # broken, another user's, or with a moment that is none
        logger.error("What %s had in hand can't be read, and no task is charged: %s", worker, error)
        return [], []


def _blame(broker: Broker, worker: Worker, progress: Progress) -> tuple[list[Settlement], list[int]]:
    """The settlements of the tasks that are charged with a worker's death, and the ids of the rows that are suspects.

    A task that is over its limit is charged, and so is a single task in hand. Of several, any one may have killed the worker.
    A task that has finished a moment ago is one of them: a thread that it has left behind may have killed the process.
    The suspects that began last come first: what was slow already would keep waiting what may be quick.
    """
    by_row = {in_hand.row: in_hand for in_hand in (*progress.finished, *progress.in_hand)}
    if not by_row or progress.verdict is Verdict.PARDONED:
        return [], []
    is_overdue = progress.verdict is Verdict.OVERDUE
    if is_overdue:
        by_row = {row: in_hand for row, in_hand in by_row.items() if in_hand.is_overdue(progress.judged)}
    elif len(by_row) > 1:
        suspects = sorted(filter(None, by_row), key=lambda row: by_row[row].started, reverse=True)
        return [], suspects if _died_alone(worker) else []
    held = rows_in_hand(broker, worker, list(by_row))
    return [settle_lost(row, by_row[row.id], str(worker), is_overdue=is_overdue) for row in held], []


def _died_alone(worker: Worker) -> bool:
    """Whether its supervisor lives: else it died with its supervisor, its container or its host, through no task's fault."""
    if worker.host != kernel.host_id():
        return False
    try:
        born = kernel.born(worker.supervisor_pid)
        return born <= worker.born and kernel.is_alive(worker.supervisor_pid, born) is not False
    except OSError:
        return False


def _free_and_queue_hooks(broker: Broker, worker: Worker, charged: list[Settlement], suspects: list[int]) -> bool:
    with transaction.atomic(using=broker.using):
        lease = free(broker, worker, charged, suspects)
        for task in lease.with_hook if lease else ():
            queue_hook(Broker(home_queue(worker.queue), broker.using), task)
    return lease is not None
