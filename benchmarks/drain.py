"""Drain: so many lines are queued while no worker runs; then two workers start.

The clock runs from the first line in the file to the last, for everybody: starting up is not part of it. Who is not
done within a limit is judged by what it has written until then.
"""

import time

from benchmarks import contestants as c
from benchmarks import lines, usage
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import Stage, stage

COUNT, QUICK_COUNT = 20_000, 2_000
LIMIT, QUICK_LIMIT = 10.0, 5.0  # seconds
START_LIMIT = 60.0  # seconds until the first line
GLANCE = 0.002  # seconds between two looks at the file


def run(contestant: Contestant, quick: bool) -> Sample:
    """Queue, then drain."""
    count = QUICK_COUNT if quick else COUNT
    with stage(contestant) as place:
        seconds = float(place.client("enqueue", str(count)))
        with place.workers():
            rate, cost = watch(place, count, QUICK_LIMIT if quick else LIMIT)
            written = lines.count(place.log)
        found = lines.look(place.log, at_least=written)
        return Sample(
            figures={"enqueued/s": count / seconds, "drained/s": rate, "CPU µs": cost},
            seen=f"{found}{'' if found.distinct >= count else f' (of {count:,}, then the time was up)'}",
            holds=found.each_once,
        )


def watch(place: Stage, count: int, limit: float, *, after: int = 0) -> tuple[float, float]:
    """Wait for `count` lines more than the `after` that the file holds; return how many came a second, and what each took.

    That is the processor time of all that runs for the contestant, in microseconds.
    """
    count += after
    _wait_for(place, after + 1, time.perf_counter() + START_LIMIT)
    first_at, first, used = time.perf_counter(), lines.count(place.log), usage.cpu_seconds(place.pids)
    _wait_for(place, count, first_at + limit)
    last_at, last, used = time.perf_counter(), lines.count(place.log), usage.cpu_seconds(place.pids) - used
    if last == first:
        return 0.0, 0.0
    return (last - first) / (last_at - first_at), 1e6 * used / (last - first)


def _wait_for(place: Stage, count: int, deadline: float) -> None:
    while lines.count(place.log) < count and time.perf_counter() < deadline:
        time.sleep(GLANCE)


FIGURES = {"drained/s": ",.0f", "enqueued/s": ",.0f", "CPU µs": ",.0f"}

SQLITE = Scenario(
    name="drain",
    title="20,000 queued appends, 2 workers",
    contestants=(
        c.NOTIFIER,
        c.HUEY_REDIS,
        c.HUEY_SQLITE,
        c.HUEY_SQLITE_UNSAFE,
        c.CELERY,
        c.DJANGO_TASKS,
        c.DJANGO_Q2_TUNED,
        c.DJANGO_Q2,
    ),
    run=run,
    figures=FIGURES,
    goals=(
        Goal(figure="drained/s", ours=c.NOTIFIER, peers=(c.HUEY_REDIS,), at_least=3.5),
        Goal(figure="drained/s", ours=c.NOTIFIER, peers=(c.CELERY,), at_least=15),
        Goal(figure="drained/s", ours=c.NOTIFIER, peers=(c.DJANGO_Q2,), at_least=100),
        Goal(figure="drained/s", ours=c.NOTIFIER, peers=(c.DJANGO_Q2_TUNED,), at_least=15),
    ),
)
JOURNAL = Scenario(
    name="journal",
    title="the cost of the journal: 20,000 queued appends, 2 workers",
    contestants=(c.NOTIFIER, c.NOTIFIER_PLAIN),
    run=run,
    figures=FIGURES,
)
POSTGRESQL = Scenario(
    name="drain-postgresql",
    title="20,000 queued appends, 2 workers, on PostgreSQL",
    contestants=(c.NOTIFIER_POSTGRESQL, c.PROCRASTINATE, c.DJANGO_TASKS_POSTGRESQL, c.DJANGO_Q2_TUNED_POSTGRESQL),
    run=run,
    figures=FIGURES,
    goals=(
        Goal(
            figure="drained/s",
            ours=c.NOTIFIER_POSTGRESQL,
            peers=(c.PROCRASTINATE, c.DJANGO_TASKS_POSTGRESQL),
            at_least=20,
        ),
    ),
    rounds=3,
)
