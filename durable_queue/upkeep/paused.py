"""Say in the log that the queue is paused, and when it is no more: whoever starts a cluster may wonder why nothing runs."""

from django_q.conf import logger

from durable_queue.models import PausedQueue
from durable_queue.store.broker import Broker
from durable_queue.store.leases import home_queue

LOOK = 3.0  # seconds between two looks


class Paused:
    """Looks whether one queue is paused, and says it once."""

    def __init__(self, broker: Broker) -> None:
        self._queue, self._using = home_queue(broker.queue), broker.using
        self._said: PausedQueue | None = None

    def look(self) -> float:
        """Say what has changed; return the seconds until the next look. Raises django.db.Error."""
        paused = PausedQueue.objects.using(self._using).filter(pk=self._queue).first()
        if paused and (self._said is None or self._said.since != paused.since):
            reason = f" ({paused.why!r})" if paused.why else ""
            since = f"{paused.since:%Y-%m-%d %H:%M:%S} UTC"
            logger.warning("The queue %r is paused by %r since %s%s: its tasks wait", self._queue, paused.by, since, reason)
        elif self._said and not paused:
            logger.warning("The queue %r is paused no more", self._queue)
        self._said = paused
        return LOOK
