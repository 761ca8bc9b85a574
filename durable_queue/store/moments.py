"""Moments, as they go to the database's driver and come back from it, and the clock that all hosts share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from durable_queue.states import EARLIEST, due_since

SAME_CLOCK = timedelta(seconds=0.5)  # two clocks that differ by less count as one: an answer may take as long


class Moments(ABC):
    """The moments of one connection."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection

    @abstractmethod
    def moment(self, moment: datetime) -> Any:
        """The moment as the driver takes it, like Django's `adapt_datetimefield_value`."""

    @abstractmethod
    def clock_ahead(self) -> timedelta:
        """How far the clock that all hosts share is ahead of this host's; 0 if the two differ by less than `SAME_CLOCK`."""

    def present(self) -> datetime:
        """The present moment, by the clock that all hosts share."""
        return datetime.now(UTC) + self.clock_ahead()

    def claimed(self, rows: Iterable[Any]) -> list[Any]:
        """The found rows, with when they were due in the place of their `lock`."""
        return [(row, due_since(self.read(lock) or EARLIEST), *rest) for row, lock, *rest in rows]

    def read(self, lock: datetime | str) -> datetime | None:
        """The moment in a `lock`; None for garbage, which somebody has written by hand on SQLite: it is for now."""
        try:
            return self.aware(lock)
        except ValueError:
            return None

    def aware(self, moment: datetime | str) -> datetime:
        """A moment that the driver gave, as an aware datetime."""
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment)
        return moment if moment.tzinfo else moment.replace(tzinfo=self.connection.timezone)
