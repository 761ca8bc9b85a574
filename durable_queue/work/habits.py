"""What functions were seen to do: return quickly, wait, or compute. The leader of a worker's threads goes by it."""

from collections.abc import Hashable

QUICK = 0.01  # seconds: what takes longer is slow
WAITS = 0.2  # a slow run that used more processor than this share of its time has not only waited
KNOWN_QUICK = 4  # quick runs in a row, after which the next is expected to be quick
KNOWN_TO_WAIT = 3  # times that it was seen to wait: one look may be mistaken, on a busy machine
FORGIVEN = 16  # quick runs in a row, after which a function is not expected to wait any more


class Habit:
    """What one function's latest runs were like."""

    def __init__(self) -> None:
        self._quick_runs = 0
        self._waits = 0  # how often it was seen to wait

    @property
    def waits(self) -> bool:
        """Whether it is expected to wait."""
        return self._waits >= KNOWN_TO_WAIT

    @property
    def is_quick(self) -> bool:
        """Whether it returned quickly every time lately."""
        return self._quick_runs >= KNOWN_QUICK

    def note_quick(self) -> None:
        """Note a quick run."""
        self._quick_runs += 1
        if self._quick_runs >= FORGIVEN:
            self._waits = 0

    def note_waits(self) -> None:
        """Note that it was seen to wait, while the process had processor to spare.

        If it had not, a function that computes would be kept from it, and look like one that waits.
        """
        self._quick_runs = 0
        self._waits += 1

    def note_slow(self, seconds: float, processor: float) -> None:
        """Note a slow run, and how many seconds of processor it has used."""
        self._quick_runs = 0
        if processor >= WAITS * seconds:
            self._waits = 0


class Habits(dict[Hashable, Habit]):
    """The habits of all functions that this worker has run, by their dotted paths."""

    def __missing__(self, path: Hashable) -> Habit:
        habit = self[path] = Habit()
        return habit
