"""Heartbeats: note that this cluster's workers live, and free the leases of dead workers."""

from durable_queue.models import Worker
from durable_queue.store.broker import Broker
from durable_queue.work.lost_workers import free_dead

HEARTBEAT = 3  # seconds between two heartbeats


def beat(broker: Broker, supervisor: str) -> float:
    """Note that the workers of this supervisor (its UUID) live; return the seconds until the next heartbeat.

    Raises django.db.Error.
    """
    Worker.objects.using(broker.using).filter(supervisor=supervisor).update(heartbeat=broker.table.now())
    free_dead(broker)
    return HEARTBEAT
