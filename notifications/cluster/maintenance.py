"""What a cluster does beside running tasks: heartbeats, freeing the leases of the dead, schedules, pruning.

It runs in a child of the supervisor, which so needs no database connection of its own and can't be held up by one.
"""

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import Error as DatabaseError
from django.db import connections
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django_q.conf import Conf, logger
from django_q.models import Schedule
from django_q.scheduler import scheduler

from notifications.cluster import history, processes
from notifications.cluster.attempts import is_unstorable, settle_lost, settle_unstorable
from notifications.cluster.broker import Broker
from notifications.cluster.checkpoints import Checkpoints
from notifications.cluster.conf import cluster_conf
from notifications.cluster.models import Worker
from notifications.cluster.progress import Progress, progress_path

HEARTBEAT = 3  # seconds between two heartbeats
LOST_AFTER = timedelta(seconds=9)  # a host whose last heartbeat is older is lost: freed within 15 s, with the checks' pace
PRUNE = 60  # seconds between two prunings, when the last one found nothing
CHECKPOINT = 0.5  # seconds between two SQLite checkpoints
ABANDONED = 3600  # seconds after which a progress file that belongs to no worker is deleted


def free_dead(broker: Broker) -> int:
    """Free the leases of all workers that are dead; return how many. Raises django.db.Error.

    On this host the kernel tells, at once and without doubt; of other hosts, the heartbeat.
    """
    freed = 0
    here = processes.host_id()
    silent = Q(heartbeat__lt=_now(broker) - LOST_AFTER)
    for worker in Worker.objects.using(broker.using).filter(Q(host=here) | silent):
        if worker.host == here and processes.is_alive(worker.pid, worker.born):
            continue
        try:
            freed += _free(broker, worker)
        except Exception as error:
            if not is_unstorable(error):
                raise
            logger.exception("%s can't be freed", worker)
    return freed


def _now(broker: Broker) -> "datetime | Now":
    """The moment that hosts agree on: the database's, where that is a machine of its own."""
    return Now() if connections[broker.using].vendor == "postgresql" else timezone.now()


def _free(broker: Broker, worker: Worker) -> bool:
    """Free the lease of a dead worker, and charge the row that it had in hand.

    Its progress file is here if it was a worker of this host, or of a container whose folder this one has now.
    """
    path = progress_path(worker.name)
    progress = Progress(path) if path.exists() else None
    settlement = None
    if progress and (in_hand := progress.in_hand):
        row = broker.row_in_hand(worker, in_hand.row)
        settlement = settle_lost(row, in_hand, str(worker)) if row else None
    try:
        freed = broker.free(worker, settlement)
    except Exception as error:
        if not settlement or not is_unstorable(error):
            raise
        freed = broker.free(worker, settle_unstorable(settlement, error))
    if freed and settlement and settlement.attempt:
        logger.error("%s of '%s': %s", settlement.attempt, settlement.task["path"], settlement.attempt.error)
    if progress:
        progress.remove()
    return freed


@dataclass
class Duty:
    """Something to be done again and again."""

    do: Callable[[], float]  # returns the seconds until the next time
    at: float = 0.0  # monotonic


class Maintenance:
    """One cluster's duties."""

    def __init__(self, broker: Broker, supervisor: str) -> None:
        """`supervisor`: the UUID under which its workers are stored."""
        self.broker = broker
        self.supervisor = supervisor
        self.duties = [Duty(self.beat), Duty(self.tick_schedules), Duty(self.prune)]
        if connections[broker.using].vendor == "sqlite":
            self.duties.append(Duty(self.checkpoint))
        self._checkpoints = Checkpoints(broker.using)

    def step(self) -> float:
        """Do what is due; return the seconds until something is again. Nothing raises."""
        for duty in self.duties:
            if duty.at <= time.monotonic():
                try:
                    pause = duty.do()
                except DatabaseError as error:
                    logger.warning("Maintenance waits for the database: %s", str(error).strip())
                    connections[self.broker.using].close()
                    pause = 1.0
                except Exception:
                    logger.exception("Maintenance failed, and goes on")
                    pause = 5.0
                duty.at = time.monotonic() + pause
        return max(0.0, min(duty.at for duty in self.duties) - time.monotonic())

    def beat(self) -> float:
        """Say that this cluster's workers live, and free those that don't."""
        mine = Worker.objects.using(self.broker.using).filter(supervisor=self.supervisor)
        mine.update(heartbeat=_now(self.broker))
        free_dead(self.broker)
        return HEARTBEAT

    def tick_schedules(self) -> float:
        """Queue what is scheduled for now."""
        if not Conf.SCHEDULER:
            return 3600.0
        due = Schedule.objects.using(self.broker.using).exclude(repeats=0).filter(next_run__lt=timezone.now())
        if due.exists():
            scheduler(broker=self.broker)
        return 1.0

    def prune(self) -> float:
        """Delete a batch of old history, and files that nobody needs."""
        if history.prune(cluster_conf.history, using=self.broker.using):
            return 0.1
        names = set(Worker.objects.using(self.broker.using).values_list("name", flat=True))
        for path in cluster_conf.run_dir.glob("*.progress"):
            with suppress(FileNotFoundError):
                if path.stem not in names and time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
        return PRUNE

    def checkpoint(self) -> float:
        """Keep SQLite's log short."""
        self._checkpoints.step()
        return CHECKPOINT


def main(supervisor: str, supervisor_pid: int, orders: int) -> None:
    """The life of the maintenance process: until `orders` is closed, which the supervisor does last."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    processes.die_with_parent(supervisor_pid)
    maintenance = Maintenance(Broker(), supervisor)
    pause = 0.0
    while True:
        ready, _, _ = select.select([orders], [], [], pause)
        if ready:
            order = os.read(orders, 4096)
            for duty in maintenance.duties[:1]:
                duty.at = 0.0  # a worker died
            if not order:
                break
        pause = maintenance.step()
    maintenance.step()
    os._exit(0)
