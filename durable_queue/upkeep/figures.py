"""Publish how many tasks wait, once a second, where somebody goes by it."""

from durable_queue.store.broker import Broker
from durable_queue.store.figures import count_due, publish_backlog

LOOK = 1.0  # seconds between two looks


class Backlog:
    """Counts the tasks of a queue that are due and wait."""

    def __init__(self, broker: Broker, most: int) -> None:
        """`most`: the count stops there."""
        self._broker, self._most = broker, most

    def publish(self) -> float:
        """Count and publish; return the seconds until the next time. Raises django.db.Error."""
        broker = self._broker
        publish_backlog(broker.using, broker.queue, count_due(broker.table, broker.queue, self._most))
        return LOOK
