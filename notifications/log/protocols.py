"""What the log needs of the attempts that write and of their database, and what it answers."""

from collections.abc import Collection
from enum import Enum
from typing import Protocol


class Outcome(Enum):
    """What became of a write."""

    WRITTEN = "written"
    WRITTEN_BEFORE = "it stood in the log already"
    SUPERSEDED = "superseded by a newer write"


class AttemptLostError(RuntimeError):
    """The attempt that wants to write was taken for dead, and its task was given to another worker."""


class Attempt(Protocol):
    """One attempt at a task, as long as it goes on."""

    claimed: float  # when (monotonic) its worker asked for the task

    def is_held(self) -> bool:
        """Whether the attempt's worker still holds the task. Raises when nobody can tell."""


class Database(Protocol):
    """The database that the tasks are in: it knows which of them can come back. Each raises when it can't tell."""

    def is_ours_alone(self) -> bool:
        """Whether the caller has it locked, so that a trim would wait for the caller."""

    def id_for(self, journal: str) -> bytes:
        """The database's name (8 bytes), another one for each database, as kept for this journal."""

    def ended(self, tasks: Collection[bytes]) -> Collection[bytes]:
        """Of these tasks (16 bytes each) the ones that can't come back."""

    def note_trim(self, journal: str, number: int) -> int:
        """Note that the journal is about to be trimmed for this time; return the number, or a greater one that it gets."""

    def catch_up(self, journal: str, number: int) -> bool:
        """Whether the database knew of an earlier trim only; from now on it knows of this one."""
