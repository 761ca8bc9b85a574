"""End the lease of a dead worker: for processes that have found it dead, and for a worker that takes its leave."""

import functools
from collections.abc import Collection, Sequence
from datetime import timedelta

from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ

from durable_queue.models import Worker
from durable_queue.states import for_now
from durable_queue.store import cancelling, wakeup
from durable_queue.store.broker import Broker
from durable_queue.store.leases import LeaseChange, Row, Settlement, alone_queue, home_queue
from durable_queue.store.settling import settle


def free(
    broker: Broker, worker: Worker, settlements: Sequence[Settlement] = (), suspects: Sequence[int] = ()
) -> LeaseChange | None:
    """End a dead worker's lease: settle what it is charged with, give back the others at their old place.

    `suspects`: the ids of rows to be run alone from now on, in this order, since one of them may have killed the worker.
    Returns the lease, with what was settled, if this call ended it; of several, one does. Raises django.db.Error.
    """
    lease = LeaseChange(name=worker.lease)
    with transaction.atomic(using=broker.using):
        if not Worker.objects.using(broker.using).filter(pk=worker.pk, lease=worker.lease).delete()[0]:
            return None
        if worker.lease is not None:
            if settlements:
                settle(broker, worker.lease, lease, settlements)
            # All at the time when the first of the last batch was due, so that ids keep their order among them.
            due, alone = worker.lease_due or timezone.now(), alone_queue(worker.queue)
            held = OrmQ.objects.using(broker.using).filter(key=worker.queue, lock=worker.lease)
            rows = broker.with_attempts([(row, due, payload) for row, payload in held.values_list("id", "payload")])
            for later, row in enumerate(reversed(suspects)):
                lock = for_now(due - timedelta(microseconds=later))
                broker.table.put_back(lease=worker.lease, row=row, lock=lock, queue=alone)
            # By its queue: the index begins with it.
            held.update(lock=for_now(due))
            lease.settled += cancelling.end_unrun(Broker(worker.queue, broker.using, follow_up=broker.follow_up), rows)
        for queue in (home_queue(worker.queue), alone_queue(worker.queue)):
            transaction.on_commit(functools.partial(wakeup.wake, queue), using=broker.using)
    return lease


def rows_in_hand(broker: Broker, worker: Worker, ids: Collection[int]) -> list[Row]:
    """Of the rows that a dead worker had in hand, those that its lease still holds."""
    if worker.lease is None:
        return []
    found = OrmQ.objects.using(broker.using).filter(pk__in=ids, lock=worker.lease)
    return broker.with_attempts([(row.pk, worker.lease_due or timezone.now(), row.payload) for row in found])
