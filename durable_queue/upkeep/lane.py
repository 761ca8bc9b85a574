"""A lane of upkeep: duties that one thread does, with connections of its own. No lane waits for another."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.db import Error as DatabaseError
from django.db import connections
from django_q.conf import logger

from durable_queue.store.databases import discard
from durable_queue.upkeep.life import Life

AFTER_DATABASE_ERROR, AFTER_ERROR = 1.0, 5.0  # seconds until a duty that failed is tried again
LEFT_ALONE = 3600.0  # seconds for which a duty at which upkeep was killed again and again is left alone


@dataclass
class Duty:
    """One duty, and when it is done next."""

    name: str
    do: Callable[[], float]  # returns the seconds until it is done again
    can_wait: bool = False  # whether it is left alone once upkeep was killed at it twice in a row
    at: float = 0.0  # monotonic


class Lane(threading.Thread):
    """Does its duties, one after the other."""

    def __init__(self, duties: Sequence[Duty], using: str, life: Life) -> None:
        """`using`: the database's alias."""
        super().__init__(name=duties[0].name, daemon=True)
        self._duties, self._using, self._life = duties, using, life
        self._woken = threading.Event()
        self._ends = False

    def wake(self) -> None:
        """Do the duties now. For another thread."""
        self._woken.set()

    def end(self) -> None:
        """Do the duties once more, and end. For another thread."""
        self._ends = True
        self.wake()
        self.join()

    def run(self) -> None:
        pause = 0.0
        while not self._ends:
            self._woken.wait(pause)
            pause = self.step()
        self.step()

    def step(self) -> float:
        """Do the duties that are due; return the seconds until the next one is. Logs errors, and never raises."""
        is_woken = self._woken.is_set()
        self._woken.clear()
        for duty in self._duties:
            if is_woken or duty.at <= time.monotonic():
                duty.at = time.monotonic() + self._do(duty)
        return max(0.0, min(duty.at for duty in self._duties) - time.monotonic())

    def _do(self, duty: Duty) -> float:
        if duty.can_wait and self._life.is_deadly(duty.name):
            self._life.forget(duty.name)
            logger.error("Upkeep was killed twice in a row at one duty (%s), and leaves it alone for an hour", duty.name)
            return LEFT_ALONE
        try:
            connections[self._using].ensure_connection()  # to wait for it is no standing still
            with self._life.at(duty.name):
                return duty.do()
        except DatabaseError as error:
            logger.warning("Upkeep waits for the database: %s", str(error).strip())
            pause = AFTER_DATABASE_ERROR
        except BaseException:  # a receiver may call sys.exit(); nobody would hear of the end of this thread
            logger.exception("Upkeep failed, and goes on")
            pause = AFTER_ERROR
        discard(self._using)
        return pause
