"""Free rows that nobody would claim: after a partial restore, the row of the worker that holds them is missing.

Or somebody has written the rows by hand, without a moment at which they are due.
"""

from django_q.conf import logger

from durable_queue.store import wakeup
from durable_queue.store.broker import Broker
from durable_queue.store.leases import alone_queue, home_queue
from durable_queue.store.ownerless import free_momentless, free_ownerless, ownerless

LOOK = 3.0  # seconds between two looks


class Ownerless:
    """Looks for such rows. Only what is seen twice is freed."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._seen: set[tuple[int, str]] = set()  # the ids of rows, with their leases

    def free(self) -> float:
        """Free the rows that were ownerless at the last look too, and those without a moment.

        Returns the seconds until the next look. Raises django.db.Error.
        """
        queues = (home_queue(self._broker.queue), alone_queue(self._broker.queue))
        found = set(ownerless(self._broker.table, queues))
        again = found & self._seen
        self._seen = found - again
        if again:
            freed = sum(free_ownerless(self._broker.table, row, lease) for row, lease in sorted(again))
            logger.warning("%d rows were held by a worker whose own row is missing: they are due again", freed)
        if without := sum(free_momentless(self._broker.table, queue) for queue in queues):
            logger.warning("%d rows had no moment at which they are due: they are due now", without)
        if again or without:
            for queue in queues:
                wakeup.wake(queue)
        return LOOK
