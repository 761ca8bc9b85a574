"""Accept: POSTs over HTTP, two web processes. For Notifier no worker runs meanwhile; FastAPI has no other way than to write."""

import time

from benchmarks import contestants as c
from benchmarks import lines, usage, wrk
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import Stage, stage

SECONDS, QUICK_SECONDS = 15, 4
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


FIGURES = {
    f"{connections}: {figure}": form
    for connections in CONNECTIONS
    for figure, form in (("accepted/s", ",.0f"), ("p99 ms", ",.1f"), ("slowest ms", ",.0f"), ("refused", ",.0f"), ("CPU µs", ",.0f"))
}
ACCEPT = Scenario(
    name="accept",
    title="POSTs accepted by 2 web processes, no worker running; 1 and 32 connections",
    contestants=(c.NOTIFIER, c.FASTAPI, c.NOTIFIER_POSTGRESQL),
    run=run,
    figures=FIGURES,
    goals=tuple(
        Goal(figure=f"{connections}: {figure}", ours=c.NOTIFIER, peers=(c.FASTAPI,), **bound)
        for connections in CONNECTIONS
        for figure, bound in (("accepted/s", {"at_least": 1.3}), ("p99 ms", {"at_most": 1.0}))
    ),
)
