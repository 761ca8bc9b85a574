"""What a scenario is, and what comes out of one."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.contestants import Contestant


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One run of one contestant."""

    figures: Mapping[str, float]
    seen: str  # what the check of the log found
    holds: bool = True  # whether every line was there once


@dataclass(frozen=True, kw_only=True)
class Goal:
    """How a figure of ours has to compare with the best of some contestants' (or with a fixed value)."""

    figure: str
    ours: Contestant
    peers: Sequence[Contestant] = ()
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Something to measure, on several contestants in turn."""

    name: str
    title: str
    contestants: Sequence[Contestant]
    run: Callable[[Contestant, bool], Sample]  # the flag: quick
    figures: Mapping[str, str]  # name → how to print it
    goals: Sequence[Goal] = ()
    rounds: int = 3
    quick_rounds: int = 2
    close: Callable[[], None] = lambda: None  # called after the last round
    paired: bool = False  # a ratio is the median of the rounds' own, and ranges are shown; every second round goes backwards
    by_default: bool = True  # whether it runs when no scenario is named

    @property
    def compared(self) -> set[str]:
        """The figures that goals are set for."""
        return {goal.figure for goal in self.goals if goal.peers}


@dataclass(kw_only=True)
class Results:
    """All samples of a scenario."""

    scenario: Scenario
    samples: dict[str, list[Sample]] = field(default_factory=dict)  # by the contestant's name

    def values(self, contestant: Contestant, figure: str) -> list[float]:
        """One of each round that has it."""
        return [sample.figures[figure] for sample in self.samples.get(contestant.name, ()) if figure in sample.figures]

    def ratios(self, ours: Contestant, peers: Sequence[Contestant], figure: str, *, more_is_better: bool) -> list[float]:
        """Ours to the best of the peers', round by round."""
        theirs = [values for peer in peers if (values := self.values(peer, figure))]
        best = [(max if more_is_better else min)(values) for values in zip(*theirs, strict=False)]
        return [value / other for value, other in zip(self.values(ours, figure), best, strict=False) if other]

    def median(self, contestant: Contestant, figure: str) -> float | None:
        """Its median over the rounds; None when there is none."""
        values = self.values(contestant, figure)
        return statistics.median(values) if values else None
