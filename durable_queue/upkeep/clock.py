"""Clocks: notice when this host's clock is set back, or differs from the server's, and keep the order of what is for now."""

import time
from datetime import UTC, datetime, timedelta

from django_q.conf import logger

from durable_queue.store.ahead import AHEAD, most_ahead, pull_back
from durable_queue.store.broker import Broker
from durable_queue.store.leases import alone_queue, home_queue

LOOK = 1.0  # seconds between two looks
LONGEST = 0.5  # seconds of work in one look


class Clock:
    """Looks at this host's clock, and at what was queued by one that was ahead."""

    def __init__(self, broker: Broker) -> None:
        self._queues = [Broker(name(broker.queue), broker.using) for name in (home_queue, alone_queue)]
        self._offset = _offset()
        self._ahead = timedelta(0)  # how far the server's clock was ahead when that was said

    def look(self) -> float:
        """Notice and mend; return the seconds until the next look. Raises django.db.Error."""
        began = time.monotonic()
        offset, before = _offset(), self._offset
        self._offset = offset
        if before - offset >= AHEAD.total_seconds():
            logger.warning("The clock was set back by %.0f s: retries and schedules wait for longer", before - offset)
        ahead = self._queues[0].table.clock_ahead()
        self._tell_of_difference(ahead)
        present = datetime.now(UTC) + ahead
        for queue in self._queues:
            seconds, moved = most_ahead(queue, present).total_seconds(), 0
            while seconds and (batch := pull_back(queue, present)):
                moved += batch
                if time.monotonic() - began > LONGEST:
                    break
            if moved:
                logger.warning("%d tasks were queued by a clock that was %.0f s ahead: they keep their order", moved, seconds)
        return LOOK if time.monotonic() - began < LONGEST else 0.0

    def _tell_of_difference(self, ahead: timedelta) -> None:
        if abs(ahead - self._ahead) < AHEAD:
            return
        self._ahead = ahead
        if ahead:
            logger.warning("The database's clock counts for retries and schedules, and is %s", told(ahead))
        else:
            logger.info("The database's clock and this host's are the same again")


def told(ahead: timedelta) -> str:
    """How far the database's clock is ahead of this host's, for people."""
    seconds = ahead.total_seconds()
    return f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this host's"


def _offset() -> float:
    """How far the clock is from the one that nobody sets, which goes on while the machine sleeps (clock_gettime(2))."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
