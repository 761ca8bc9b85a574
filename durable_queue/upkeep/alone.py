"""Have the supervisor start a worker when a task that runs alone is due: a suspect on any host, or one that is tried again."""

import os
from contextlib import suppress

from durable_queue.store.broker import Broker
from durable_queue.work.stop import MORE_ALONE

LOOK = 1.0  # seconds between two looks


def tell_of_due(broker: Broker, supervisor: int) -> float:
    """Tell the supervisor, by this descriptor, if such a task is due; return the seconds until the next time.

    Raises django.db.Error.
    """
    if broker.is_alone_due():
        with suppress(BlockingIOError):
            os.write(supervisor, MORE_ALONE)
    return LOOK
