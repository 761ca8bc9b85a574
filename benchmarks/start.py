"""Start: from `scripts/serve` to the line that says that the service is ready, when all has been set up before."""

import time
from pathlib import Path

from benchmarks import contestants as c
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import Stage, stage
from tests.support.processes import free_port, service


def run(contestant: Contestant, quick: bool) -> Sample:
    """Start it twice."""
    with stage(contestant) as place:
        first, second = _start(place), _start(place)
    return Sample(figures={"first s": first, "second s": second}, seen="")


def _start(place: Stage) -> float:
    started = time.perf_counter()
    with service(env=place.env, port=free_port(), output=Path(place.output)):
        return time.perf_counter() - started


START = Scenario(
    name="start",
    title="time until scripts/serve is ready",
    contestants=(c.NOTIFIER, c.NOTIFIER_POSTGRESQL),
    run=run,
    figures={"first s": ".2f", "second s": ".2f"},
    goals=(Goal(figure="second s", ours=c.NOTIFIER, at_most=2), Goal(figure="second s", ours=c.NOTIFIER_POSTGRESQL, at_most=2)),
)
