"""The interfaces that the log file uses (an attempt, the tasks' database), and the outcomes of a write."""

from collections.abc import Collection
from enum import Enum
from typing import Protocol


class Outcome(Enum):
    """The outcome of a write."""

    WRITTEN = "written"
    WRITTEN_BEFORE = "it stood in the log already"
    SUPERSEDED = "superseded by a newer write"


class AttemptLostError(RuntimeError):
    """The attempt's worker was taken for dead, and its task was given to another worker."""


class Attempt(Protocol):
    """A running attempt of a task."""

    claimed: float  # when (monotonic) its worker set out to claim the task

    def is_held(self) -> bool:
        """Whether the lease of the attempt's worker still holds the task. Raises when the database can't be asked."""


class Database(Protocol):
    """The database that holds the tasks: it knows which of them can come back. Each method raises when it can't tell."""

    def is_ours_alone(self) -> bool:
        """Whether the caller has locked the database, so that a trim would wait for its own caller."""

    def id_for(self, journal: str) -> bytes:
        """The database's id for this journal (8 bytes). Each database has a different one."""

    def ended(self, tasks: Collection[bytes]) -> Collection[bytes]:
        """The tasks among these (16 bytes each) that can't come back."""

    def note_trim(self, journal: str, number: int) -> int:
        """Note the number of the trim that is about to happen. Return the number that it gets: this one or a greater one."""

    def catch_up(self, journal: str, number: int) -> bool:
        """Whether the database knew only of an earlier trim than this. From now on it knows of this one."""
