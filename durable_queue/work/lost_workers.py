"""Workers that were killed, or whose host is lost: free their leases, and charge the task that each had in hand."""

from datetime import timedelta

from django.db import transaction
from django.db.models import Q
from django_q.conf import logger

from durable_queue.models import Worker
from durable_queue.store.broker import Broker
from durable_queue.store.leases import Settlement, home_queue
from durable_queue.work import kernel
from durable_queue.work.follow_ups import queue_hook
from durable_queue.work.outcomes import is_unstorable, settle_lost, settle_unstorable
from durable_queue.work.progress import Progress, Verdict, progress_path

LOST_AFTER = timedelta(seconds=9)  # a host whose last heartbeat is older is lost: freed within 15 s, with the checks' pace


def free_dead(broker: Broker) -> int:
    """Free the leases of all workers that are dead; return how many. Raises django.db.Error.

    On this host the kernel tells, at once and without doubt; of other hosts, the heartbeat.
    """
    freed = 0
    here = kernel.host_id()
    silent = Q(heartbeat__lt=broker.table.now() - LOST_AFTER)
    for worker in Worker.objects.using(broker.using).filter(Q(host=here) | silent):
        if worker.host == here and kernel.is_alive(worker.pid, worker.born):
            continue
        try:
            freed += _free(broker, worker)
        except Exception as error:
            if not is_unstorable(error):
                raise
            logger.exception("%s can't be freed", worker)
    return freed


def _free(broker: Broker, worker: Worker) -> bool:
    path = progress_path(worker.name)
    progress = Progress(path) if path.exists() else None
    charged, suspects = _blame(broker, worker, progress) if progress else ([], [])
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
    if progress and (freed or not Worker.objects.using(broker.using).filter(pk=worker.pk).exists()):
        progress.remove()  # not while it may hold another lease, whose rows are still to be judged by this file
    return freed


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
    held = broker.rows_in_hand(worker, list(by_row))
    return [settle_lost(row, by_row[row.id], str(worker), is_overdue=is_overdue) for row in held], []


def _died_alone(worker: Worker) -> bool:
    """Whether its supervisor lives: else it died with its supervisor, its container or its host, through no task's fault."""
    if worker.host != kernel.host_id():
        return False
    try:
        born = kernel.born(worker.supervisor_pid)
        return born <= worker.born and kernel.is_alive(worker.supervisor_pid, born)
    except OSError:
        return False


def _free_and_queue_hooks(broker: Broker, worker: Worker, charged: list[Settlement], suspects: list[int]) -> bool:
    with transaction.atomic(using=broker.using):
        lease = broker.free(worker, charged, suspects)
        for task in lease.with_hook if lease else ():
            queue_hook(Broker(home_queue(worker.queue), broker.using), task)
    return lease is not None
