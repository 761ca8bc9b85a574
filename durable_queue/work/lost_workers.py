"""Workers that were killed, or whose host is lost: free their leases, and charge the task that each had in hand."""

from datetime import timedelta

from django.db import transaction
from django.db.models import Q
from django_q.conf import logger

from durable_queue.models import Worker
from durable_queue.store.broker import Broker
from durable_queue.store.leases import Settlement
from durable_queue.work import processes
from durable_queue.work.follow_ups import queue_hook
from durable_queue.work.outcomes import is_unstorable, settle_lost, settle_unstorable
from durable_queue.work.progress import Progress, progress_path

LOST_AFTER = timedelta(seconds=9)  # a host whose last heartbeat is older is lost: freed within 15 s, with the checks' pace


def free_dead(broker: Broker) -> int:
    """Free the leases of all workers that are dead; return how many. Raises django.db.Error.

    On this host the kernel tells, at once and without doubt; of other hosts, the heartbeat.
    """
    freed = 0
    here = processes.host_id()
    silent = Q(heartbeat__lt=broker.table.now() - LOST_AFTER)
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
        freed = _free_and_queue_hooks(broker, worker, settlement)
    except Exception as error:
        if not settlement or not is_unstorable(error):
            raise
        freed = _free_and_queue_hooks(broker, worker, settle_unstorable(settlement, error))
    if freed and settlement and settlement.attempt:
        logger.error("%s of '%s': %s", settlement.attempt, settlement.task["path"], settlement.attempt.error)
    if progress:
        progress.remove()
    return freed


def _free_and_queue_hooks(broker: Broker, worker: Worker, settlement: Settlement | None) -> bool:
    with transaction.atomic(using=broker.using):
        lease = broker.free(worker, settlement)
        for task in lease.with_hook if lease else ():
            queue_hook(Broker(worker.queue, broker.using), task)
    return lease is not None
