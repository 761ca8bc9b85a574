"""Accept: POSTs over HTTP, two web processes.

In `accept` no worker of Notifier's runs meanwhile (FastAPI has no other way than to write); in `accept-and-write` all does.
"""

import statistics
import threading
import time
from typing import Self

from benchmarks import contestants as c
from benchmarks import lines, usage, wrk
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import Stage, stage

SECONDS, QUICK_SECONDS = 10, 4
STEADY, QUICK_STEADY = 60, 15
WARM_UP = 2  # seconds
CONNECTIONS = (1, 32)
WRITE_LIMIT = 120  # seconds in which all that was accepted must be written, once workers run


def run(contestant: Contestant, quick: bool) -> Sample:
    """One connection, then many; then have everything written, and look at it."""
    figures: dict[str, float] = {}
    answered = 0
    with stage(contestant) as place:
        with place.web() as port:
            answered += wrk.post(port, connections=4, seconds=WARM_UP, tag="warm").answered
            for connections in CONNECTIONS:
                seconds = QUICK_SECONDS if quick else SECONDS
                used = usage.cpu_seconds(place.pids)
                answers = wrk.post(port, connections=connections, seconds=seconds, tag=f"c{connections}")
                answered += answers.answered
                figures |= {
                    f"{connections}: accepted/s": answers.rate,
                    f"{connections}: p99 ms": answers.p99,
                    f"{connections}: slowest ms": answers.slowest,
                    f"{connections}: refused": answers.refused,
                    f"{connections}: CPU µs": 1e6 * (usage.cpu_seconds(place.pids) - used) / answers.answered,
                }
        with place.workers():
            found = wait_for_lines(place, answered)
    return Sample(figures=figures, seen=str(found), holds=found.each_once)


def wait_for_lines(place: Stage, count: int) -> lines.Lines:
    """Wait for so many lines, and until no more come; return what was found.

    Lines of requests whose answer wrk did not wait for, when its time was up, may be there too.
    """
    deadline = time.monotonic() + WRITE_LIMIT
    size = -1
    while time.monotonic() < deadline:
        before, size = size, place.log.stat().st_size if place.log.exists() else -1
        if size == before and lines.look(place.log, at_least=count).each_once:
            break
        time.sleep(0.5)
    return lines.look(place.log, at_least=count)


def run_and_write(contestant: Contestant, quick: bool) -> Sample:
    """All at once, for a while: posting, answering, writing."""
    with stage(contestant) as place, place.service() as port:
        answered = wrk.post(port, connections=4, seconds=WARM_UP, tag="warm").answered
        used = usage.cpu_seconds(place.pids)
        with Backlog(place) as backlog:
            answers = wrk.post(port, connections=32, seconds=QUICK_STEADY if quick else STEADY, tag="steady")
        cost = 1e6 * (usage.cpu_seconds(place.pids) - used) / answers.answered
        answered += answers.answered
        behind = answered - lines.look(place.log, at_least=0).distinct
        found = wait_for_lines(place, answered)
    figures = {
        "accepted/s": answers.rate,
        "p50 ms": answers.p50,
        "p99 ms": answers.p99,
        "slowest ms": answers.slowest,
        "refused": answers.refused,
        "unwritten at the end": max(0, behind),
        "backlog grows by %": 100 * backlog.growth / answers.rate,
        "CPU µs": cost,
    }
    return Sample(figures=figures, seen=str(found), holds=found.each_once)


class Backlog:
    """Counts what waits, now and then, in a thread of its own. For contestants without a queue there is nothing to count."""

    PAUSE = 0.5  # seconds

    def __init__(self, place: Stage) -> None:
        """Not counting yet."""
        self._place = place
        self._counts: list[tuple[float, int]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._count)

    def __enter__(self) -> Self:
        """Count."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting."""
        self._done.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        """By how many tasks a second what waits has grown: from the middle of the first third to that of the last."""
        third = len(self._counts) // 3
        if not third:
            return 0.0
        (at, waiting), (last_at, last_waiting) = (
            tuple(statistics.median(column) for column in zip(*part, strict=True))
            for part in (self._counts[:third], self._counts[-third:])
        )
        return float((last_waiting - waiting) / (last_at - at))

    def _count(self) -> None:
        while self._place.contestant.folder == "notifier" and not self._done.wait(self.PAUSE):
            self._counts.append((time.monotonic(), self._place.waiting()))


FIGURES = {
    f"{connections}: {figure}": form
    for connections in CONNECTIONS
    for figure, form in (
        ("accepted/s", ",.0f"),
        ("p99 ms", ",.1f"),
        ("slowest ms", ",.0f"),
        ("refused", ",.0f"),
        ("CPU µs", ",.0f"),
    )
}
WRITE_FIGURES = {
    "accepted/s": ",.0f",
    "p50 ms": ",.1f",
    "p99 ms": ",.1f",
    "slowest ms": ",.0f",
    "refused": ",.0f",
    "unwritten at the end": ",.0f",
    "backlog grows by %": ",.1f",
    "CPU µs": ",.0f",
}
CONTESTANTS = (c.NOTIFIER, c.FASTAPI, c.NOTIFIER_POSTGRESQL)


PEERS = (c.FASTAPI,)

ACCEPT = Scenario(
    name="accept",
    title="POSTs accepted by 2 web processes over 1 and 32 connections, no worker running",
    contestants=CONTESTANTS,
    run=run,
    figures=FIGURES,
    goals=tuple(
        goal
        for connections in CONNECTIONS
        for goal in (
            Goal(figure=f"{connections}: accepted/s", ours=c.NOTIFIER, peers=PEERS, at_least=1.3),
            Goal(figure=f"{connections}: p99 ms", ours=c.NOTIFIER, peers=PEERS, at_most=1),
        )
    ),
)
ACCEPT_AND_WRITE = Scenario(
    name="accept-and-write",
    title="POSTs accepted and written, web and workers on the same cores, 32 connections, steady",
    contestants=CONTESTANTS,
    run=run_and_write,
    figures=WRITE_FIGURES,
    goals=(
        Goal(figure="accepted/s", ours=c.NOTIFIER, peers=PEERS, at_least=1.1),
        Goal(figure="p99 ms", ours=c.NOTIFIER, peers=PEERS, at_most=1),
        Goal(figure="slowest ms", ours=c.NOTIFIER, at_most=250),
        Goal(figure="backlog grows by %", ours=c.NOTIFIER, at_most=1),
    ),
    rounds=2,
)
