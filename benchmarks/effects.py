"""The effects that slow jobs leave (benchmarks/peers/slow.py): how many there are, and what they tell."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.slow import LENGTH, spin
from benchmarks.stage import Stage

GLANCE = 0.002  # seconds between two looks at the file
TRIES = 50  # of which the quickest tells how quick the machine is


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one job has left. Times are of the wall clock."""

    job: str
    number: int
    process: int
    thread: int
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Effects:
    """All that were found, and how many there should be."""

    found: list[Effect]
    wanted: int

    def of(self, job: str) -> "Effects":
        """Those of one kind of job."""
        found = [effect for effect in self.found if effect.job == job]
        return Effects(found=found, wanted=len(found))

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return self.last_end - min(effect.began for effect in self.found)

    @property
    def last_end(self) -> float:
        """When all was done."""
        return max(effect.ended for effect in self.found)

    @property
    def durations(self) -> list[float]:
        """How long each took."""
        return [effect.ended - effect.began for effect in self.found]

    @property
    def threads(self) -> int:
        """How many threads have worked."""
        return len({(effect.process, effect.thread) for effect in self.found})

    @property
    def at_once(self) -> int:
        """How many were in hand at once in one process, at most."""
        steps = sorted((at, step, e.process) for e in self.found for at, step in ((e.began, 1), (e.ended, -1)))
        in_hand: Counter[int] = Counter()
        most = 0
        for _, step, process in steps:
            in_hand[process] += step
            most = max(most, in_hand[process])
        return most

    @property
    def largest_share(self) -> float:
        """What share of them the busiest process has done."""
        ((_, most),) = Counter(effect.process for effect in self.found).most_common(1)
        return most / len(self.found)

    @property
    def _faults(self) -> dict[str, int]:
        distinct = Counter((effect.job, effect.number) for effect in self.found)
        return {"doubled": len(self.found) - len(distinct), "missing": self.wanted - len(distinct)}

    @property
    def each_once(self) -> bool:
        """Whether each job was done, and once."""
        return not any(self._faults.values())

    def __str__(self) -> str:
        faults = [f"{count:,} {what}" for what, count in self._faults.items() if count]
        return f"{len(self.found):,} effects, " + (", ".join(faults) or "each once")


def count(file: Path) -> int:
    """How many there are, by the file's size."""
    try:
        return file.stat().st_size // LENGTH
    except FileNotFoundError:
        return 0


def wait_for(place: Stage, wanted: int, *, limit: float) -> Effects:
    """Wait for so many effects, for so many seconds at most; return what was found."""
    deadline = time.monotonic() + limit
    while count(place.effects) < wanted and time.monotonic() < deadline:
        time.sleep(GLANCE)
    return read(place.effects, wanted=wanted)


def read(file: Path, *, wanted: int) -> Effects:
    """What is in the file, which should hold so many."""
    rows = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    if not rows:
        raise SystemExit(f"None of {wanted:,} jobs has left an effect in {file}")
    found = [
        Effect(job=job, number=int(number), process=int(process), thread=int(thread), began=float(began), ended=float(ended))
        for job, number, process, thread, began, ended in rows
    ]
    return Effects(found=found, wanted=wanted)


def turns_for(seconds: float) -> int:
    """How many turns of `spin` take so long on this machine, when nothing else runs."""
    turns = 100_000
    return int(turns * seconds / min(_timed(lambda: spin(turns)) for _ in range(TRIES)))


def _timed(call: Callable[[], object]) -> float:
    began = time.thread_time()  # of the processor: others may run meanwhile
    call()
    return time.thread_time() - began
