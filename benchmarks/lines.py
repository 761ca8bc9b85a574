"""What stands in the log after a run: is every line there, and is it there once?"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.line import LENGTH

LINE = re.compile(rb"message to [\w-]+@example\.com\n")


@dataclass(frozen=True, kw_only=True)
class Lines:
    """What was found in a log."""

    distinct: int
    doubled: int  # lines beyond the first of their kind
    foreign: int  # torn ones, and any other that nobody asked for
    missing: int

    @property
    def each_once(self) -> bool:
        """Whether all is as it should be."""
        return not (self.doubled or self.foreign or self.missing)

    def __str__(self) -> str:
        wrong = {"doubled": self.doubled, "torn or foreign": self.foreign, "missing": self.missing}
        faults = [f"{count:,} {what}" for what, count in wrong.items() if count]
        return f"{self.distinct:,} lines, " + (", ".join(faults) or "each once")


def look(log: Path, *, at_least: int) -> Lines:
    """Read a log that should hold so many lines."""
    found = Counter(log.read_bytes().splitlines(keepends=True)) if log.exists() else Counter()
    foreign = sum(count for line, count in found.items() if not LINE.fullmatch(line))
    distinct = sum(1 for line in found if LINE.fullmatch(line))
    return Lines(
        distinct=distinct,
        doubled=found.total() - foreign - distinct,
        foreign=foreign,
        missing=max(0, at_least - distinct),
    )


def count(log: Path) -> int:
    """How many lines of the client's are in the log, by its size."""
    try:
        return log.stat().st_size // LENGTH
    except FileNotFoundError:
        return 0
