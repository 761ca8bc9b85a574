"""Growth: does what is queued, waits or is kept slow the rest down?

The same installation in four situations, each filled once and then measured several times in turn: so many of the due
tasks are drained, then POSTs are accepted, then what they left is written.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count

from benchmarks import contestants as c
from benchmarks import drain, lines, usage, wrk
from benchmarks.contestants import PEERS, Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import Stage, stage
from tests.support.processes import wait_until

FILL = PEERS / "notifier" / "fill.py"
DRAINED, QUICK_DRAINED = 20_000, 3_000  # tasks a round
SECONDS, QUICK_SECONDS = 8, 3  # of accepting
LIMIT = 60  # seconds
LESS = 20  # by which the heaps are smaller in a quick run


@dataclass(frozen=True, kw_only=True)
class Heap:
    """What is in the tables before anything is measured."""

    what: str
    rows: int


@dataclass(kw_only=True)
class Growth:
    """The installations, each set up when it is first needed."""

    heaps: dict[str, Heap]  # by the contestant's name
    _open: ExitStack = field(default_factory=ExitStack)
    _stages: dict[str, Stage] = field(default_factory=dict)
    _numbers: dict[str, "count[int]"] = field(default_factory=dict)

    def run(self, contestant: Contestant, quick: bool) -> Sample:
        """One round in one situation."""
        heap = self.heaps.get(contestant.name)
        if contestant.name not in self._stages:
            self._set_up(contestant, heap, quick)
        place, round_number = self._stages[contestant.name], next(self._numbers[contestant.name])
        drained = QUICK_DRAINED if quick else DRAINED
        if not (heap and heap.what == "queued"):
            place.client("queued", str(round_number * drained), str(drained), script=FILL)
        before, waiting = lines.count(place.log), place.waiting()
        with place.workers():
            rate, cost = drain.watch(place, drained, LIMIT, after=before)
            memory = usage.memory_mib(place.started)
        figures = {"drained/s": rate, "CPU µs": cost, "worker MiB": memory, "due before": waiting}
        figures |= self._accept(place, round_number, quick)
        if not (heap and heap.what == "queued"):
            with place.workers():
                wait_until(lambda: not place.waiting(), timeout=LIMIT, what="all is written")
        found = lines.look(place.log, at_least=0)
        return Sample(figures=figures, seen=str(found), holds=found.each_once)

    def _set_up(self, contestant: Contestant, heap: Heap | None, quick: bool) -> None:
        place = self._stages[contestant.name] = self._open.enter_context(stage(contestant))
        self._numbers[contestant.name] = count()
        if heap:
            first = 0 if heap.what == "queued" else 9_000_000 - heap.rows
            place.client(heap.what, str(first), str(heap.rows // (LESS if quick else 1)), script=FILL)
            os.sync()  # gigabytes that the disk is still busy with would slow down what comes next

    def _accept(self, place: Stage, round_number: int, quick: bool) -> dict[str, float]:
        with place.web() as port:
            wrk.post(port, connections=4, seconds=1, tag=f"warm{round_number}")
            answers = wrk.post(port, connections=32, seconds=QUICK_SECONDS if quick else SECONDS, tag=f"round{round_number}")
        return {"accepted/s": answers.rate, "p99 ms": answers.p99}

    def close(self) -> None:
        """Tear all down."""
        self._open.close()


def scenario(ours: Contestant, name: str, title: str) -> Scenario:
    """The four situations on one database."""
    heaps = {
        f"{name}-queued": ("1,000,000 tasks queued", Heap(what="queued", rows=1_000_000)),
        f"{name}-waiting": ("100,000 tasks waiting for a retry", Heap(what="waiting", rows=100_000)),
        f"{name}-history": ("5,000,000 tasks in the history", Heap(what="history", rows=5_000_000)),
    }
    empty = replace(ours, name=f"{name}-empty", title="empty tables")
    full = [replace(ours, name=key, title=words) for key, (words, _) in heaps.items()]
    growth = Growth(heaps={key: heap for key, (_, heap) in heaps.items()})
    return Scenario(
        name=name,
        title=title,
        contestants=(empty, *full),
        run=growth.run,
        close=growth.close,
        figures={
            "drained/s": ",.0f",
            "accepted/s": ",.0f",
            "p99 ms": ",.1f",
            "CPU µs": ",.0f",
            "worker MiB": ",.0f",
            "due before": ",.0f",
        },
        goals=tuple(
            Goal(figure=figure, ours=contestant, peers=(empty,), at_least=least, at_most=most)
            for contestant in full
            for figure, least, most in (("drained/s", 0.9, None), ("accepted/s", 0.9, None), ("worker MiB", None, 1.1))
        ),
    )


SQLITE = scenario(c.NOTIFIER, "growth", "rates beside heaps of tasks")
POSTGRESQL = scenario(c.NOTIFIER_POSTGRESQL, "growth-postgresql", "rates beside heaps of tasks, on PostgreSQL")
