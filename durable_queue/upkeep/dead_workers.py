"""Free the leases of dead workers."""

from django.db import Error as DatabaseError

from durable_queue.store.broker import Broker
from durable_queue.work.lost_workers import Observer, free_dead

LOOK = 3.0  # seconds between two looks; the supervisor has upkeep look at once when a worker of its own has died


def free(broker: Broker, observer: Observer) -> float:
    """Free them; return the seconds until the next look. `observer`: the same one each time. Raises django.db.Error."""
    try:
        free_dead(broker, observer)
    except DatabaseError:
        observer.begin_anew()
        raise
    return LOOK
