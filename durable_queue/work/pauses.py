"""Whether a worker's queue is paused, as far as the worker knows."""

import math
import time

from django.db import Error as DatabaseError

from durable_queue.store import queue_connection
from durable_queue.store.broker import Broker

LOOK = 0.5  # seconds between two looks: whether it is paused still, and whether it was paused while its rows are in work
DEAF = 0.02  # seconds for which a worker of a paused queue hears no hint: each task that is queued gives one


class Pauses:
    """The pauses of one worker's queue. The statements that claim look for themselves: this saves looks, and ends batches."""

    def __init__(self, broker: Broker) -> None:
        self.is_paused = False
        self._broker = broker
        self._looked = 0.0  # monotonic

    def note(self, due: float | None, *, hinted: bool) -> None:
        """Note what `Broker.wait_until_due` gave, after hints or without; hints that mean nothing now are held off."""
        self.is_paused = due == math.inf
        if self.is_paused and hinted:
            time.sleep(DEAF)

    def has_begun_since(self, claimed: float) -> bool:
        """Whether it was paused since then (monotonic). Not known, so no, until `LOOK` after that, and between two looks."""
        now = time.monotonic()
        if now - max(claimed, self._looked) < LOOK:
            return False
        self._looked = now
        try:
            with queue_connection.held():
                return self._broker.is_paused()
        except DatabaseError:
            return False  # the settlement that comes next waits for the database
