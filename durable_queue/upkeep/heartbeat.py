"""Heartbeats: note that this cluster's workers live. They depend on nothing else that upkeep does."""

from django.db import Error as DatabaseError

from durable_queue.models import Worker
from durable_queue.states import Present
from durable_queue.store.broker import Broker
from durable_queue.work.lost_workers import Observer

HEARTBEAT = 3  # seconds between two heartbeats


def beat(broker: Broker, supervisor: str, observer: Observer) -> float:
    """Note that the workers of this supervisor (its UUID) live; return the seconds until the next heartbeat.

    `observer`: who watches those of others, and hears whether this one got through. Raises django.db.Error.
    """
    try:
        Worker.objects.using(broker.using).filter(supervisor=supervisor).update(heartbeat=Present())
    except DatabaseError:
        observer.begin_anew()
        raise
    observer.note_heartbeat()
    return HEARTBEAT
