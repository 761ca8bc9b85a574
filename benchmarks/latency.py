"""Latency: on an idle system, from the call that queues a line until the line stands in the file."""

import json
import statistics

from benchmarks import contestants as c
from benchmarks import lines
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import stage

TRIES, QUICK_TRIES = 200, 40
LIMIT, QUICK_LIMIT = 20, 6  # seconds: the slow ones make fewer tries


def run(contestant: Contestant, quick: bool) -> Sample:
    """Queue one line at a time."""
    with stage(contestant) as place:
        with place.workers():
            tries, limit = (QUICK_TRIES, QUICK_LIMIT) if quick else (TRIES, LIMIT)
            delays = [1000 * delay for delay in json.loads(place.client("latency", str(tries), str(limit)))]
        found = lines.look(place.log, at_least=len(delays) + 1)
    return Sample(
        figures={"p50 ms": statistics.median(delays), "p99 ms": percentile(delays, 0.99), "tries": len(delays)},
        seen=str(found),
        holds=found.each_once,
    )


def percentile(values: list[float], share: float) -> float:
    """A percentile by the nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


FIGURES = {"p50 ms": ",.2f", "p99 ms": ",.2f", "tries": ",.0f"}

SQLITE = Scenario(
    name="latency",
    title="idle: from queueing to the line in the file",
    contestants=(c.NOTIFIER, c.HUEY_REDIS, c.CELERY, c.HUEY_SQLITE, c.DJANGO_Q2, c.DJANGO_TASKS),
    run=run,
    figures=FIGURES,
    goals=(
        Goal(figure="p50 ms", ours=c.NOTIFIER, peers=(c.CELERY,), at_most=0.5),
        Goal(figure="p99 ms", ours=c.NOTIFIER, peers=(c.CELERY,), at_most=1),
    ),
    rounds=3,
)
POSTGRESQL = Scenario(
    name="latency-postgresql",
    title="idle: from queueing to the line in the file, on PostgreSQL",
    contestants=(c.NOTIFIER_POSTGRESQL, c.PROCRASTINATE, c.DJANGO_TASKS_POSTGRESQL),
    run=run,
    figures=FIGURES,
    goals=(Goal(figure="p50 ms", ours=c.NOTIFIER_POSTGRESQL, peers=(c.PROCRASTINATE,), at_most=0.4),),
    rounds=3,
)
