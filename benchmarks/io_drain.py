"""Tasks that wait or compute, queued while no worker runs; then two workers start.

The clock runs from the first start of a task to the last end, as the tasks themselves note them.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from benchmarks import contestants as c
from benchmarks import effects, io_post
from benchmarks.contestants import Contestant
from benchmarks.latency import percentile
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import Stage, stage

SECONDS = 0.1  # that a task waits
LIMIT = 60  # seconds for all of them

NOTIFIER = io_post.NOTIFIER


def drain(place: Stage, wanted: int, *, limit: float = LIMIT) -> effects.Effects:
    """Start the workers, and wait until so many jobs are done."""
    with place.workers():
        return effects.wait_for(place, wanted, limit=limit)


# Tasks that wait, on 2 x 40 threads.

CELERY = replace(
    c.CELERY,
    title="Celery on Redis, 2 x 40 threads",
    workers=tuple(
        tuple(f"celery -A jobs worker --pool threads --concurrency 40 --hostname {name} --loglevel warning".split())
        for name in ("one@%h", "two@%h")
    ),
    env={"BENCH_PREFETCH": "1"},
)
HUEY = replace(
    c.HUEY_REDIS,
    title="Huey on Redis, 2 x 40 threads",
    workers=(("huey_consumer", "jobs.huey", "--workers", "40", "--worker-type", "thread", "--quiet"),) * 2,
)
PROCRASTINATE = replace(
    c.PROCRASTINATE,
    title="Procrastinate, 2 x 40 coroutines",
    workers=(("procrastinate", "--app", "jobs.app", "worker", "--concurrency", "40"),) * 2,
)
WAITING, QUICK_WAITING = 2_000, 400
AT_ONCE = 2 * 40


def run_threads(contestant: Contestant, quick: bool) -> Sample:
    """Queue tasks that wait, then drain."""
    count = QUICK_WAITING if quick else WAITING
    with stage(contestant) as place:
        place.client("slow", "wait", "0", str(count), str(SECONDS))
        found = drain(place, count)
    ideal = count * SECONDS / AT_ONCE
    figures = {"total s": found.seconds, "to the ideal": found.seconds / ideal, "threads": found.threads}
    return Sample(figures=figures, seen=str(found), holds=found.each_once)


THREADS = Scenario(
    name="io-threads",
    title="2,000 queued tasks that wait 0.1 s, on 2 x 40 threads (the ideal is 2.5 s)",
    contestants=(NOTIFIER, HUEY, CELERY, PROCRASTINATE),
    run=run_threads,
    figures={"total s": ".2f", "to the ideal": ".2f", "threads": ".0f"},
    goals=(
        Goal(figure="to the ideal", ours=NOTIFIER, at_most=1.1),
        Goal(figure="total s", ours=NOTIFIER, peers=(HUEY, CELERY, PROCRASTINATE), at_most=1.05),
    ),
    rounds=5,
    paired=True,
)

# Quick tasks, with slow ones among them.

ALONE = replace(NOTIFIER, name="notifier-quick-alone", title="10,000 quick tasks alone")
MIXED_IN = replace(NOTIFIER, name="notifier-mixed", title="10,000 quick tasks, with 100 slow ones")
QUICK_TASKS, QUICK_QUICK_TASKS = 10_000, 2_000
QUICK_TO_A_SLOW = 100


def run_mixed(contestant: Contestant, quick: bool) -> Sample:
    """Queue quick tasks, and some that wait, then drain."""
    count = QUICK_QUICK_TASKS if quick else QUICK_TASKS
    slow = count // QUICK_TO_A_SLOW if contestant is MIXED_IN else 0
    with stage(contestant) as place:
        place.client("mixed", str(count), str(slow), str(SECONDS))
        found = drain(place, count + slow)
    figures = {"quick/s": count / found.of("quick").seconds, "total s": found.seconds}
    return Sample(figures=figures, seen=str(found), holds=found.each_once)


MIXED = Scenario(
    name="io-mixed",
    title="10,000 quick tasks, with 100 among them that wait 0.1 s",
    contestants=(MIXED_IN, ALONE),
    run=run_mixed,
    figures={"quick/s": ",.0f", "total s": ".2f"},
    goals=(Goal(figure="quick/s", ours=MIXED_IN, peers=(ALONE,), at_least=0.7),),
    rounds=5,
    paired=True,
)

# Tasks that compute.

MANY_THREADS = replace(NOTIFIER, name="notifier-40-threads", title="2 x 40 threads, the default")
ONE_THREAD = replace(
    NOTIFIER, name="notifier-1-thread", title="2 x 1 thread", env={**NOTIFIER.env, "NOTIFIER_QUEUE_THREADS": "1"}
)
COMPUTING, QUICK_COMPUTING = 120, 60
SHORT, LONG = 0.05, 2.0  # seconds that a task computes, when it is alone

turns_for: Callable[[float], int] = cache(effects.turns_for)  # the same work in each round


def run_compute(contestant: Contestant, quick: bool) -> Sample:
    """Queue tasks that compute, then drain."""
    count = QUICK_COMPUTING if quick else COMPUTING
    with stage(contestant) as place:
        place.client("slow", "compute", "0", str(count), str(turns_for(SHORT)))
        found = drain(place, count)
    figures = {"total s": found.seconds, "p95 ms": 1000 * percentile(found.durations, 0.95), "at once": found.at_once}
    return Sample(figures=figures, seen=str(found), holds=found.each_once)


COMPUTE = Scenario(
    name="io-compute",
    title="120 queued tasks that compute for 50 ms",
    contestants=(MANY_THREADS, ONE_THREAD),
    run=run_compute,
    figures={"total s": ".2f", "p95 ms": ",.0f", "at once": ".0f"},
    goals=(Goal(figure="total s", ours=MANY_THREADS, peers=(ONE_THREAD,), at_most=1.1),),
    rounds=5,
    paired=True,
)

LIMITED = replace(NOTIFIER, env={**NOTIFIER.env, "BENCH_LIMIT": "20"})
LONG_COMPUTING, QUICK_LONG_COMPUTING = 200, 20
ALONE_TRIES = 3
ATTEMPTS = "durable_queue_failedattempt"


def run_long_compute(contestant: Contestant, quick: bool) -> Sample:
    """Compute a few times alone; then queue many tasks that compute for long, and drain."""
    count = QUICK_LONG_COMPUTING if quick else LONG_COMPUTING
    alone = []
    for _ in range(ALONE_TRIES):
        with stage(contestant) as place:
            place.client("slow", "compute", "0", "1", str(turns_for(LONG)))
            alone += drain(place, 1).durations
    with stage(contestant) as place:
        place.client("slow", "compute", "0", str(count), str(turns_for(LONG)))
        found = drain(place, count, limit=2 * count * LONG)
        failed, overdue = place.count(ATTEMPTS), place.count(f"{ATTEMPTS} WHERE outcome = 'overdue'")
    own, p95 = sorted(alone)[ALONE_TRIES // 2], percentile(found.durations, 0.95)
    figures = {
        "total s": found.seconds,
        "alone s": own,
        "p95 s": p95,
        "longest s": max(found.durations),
        "p95 / alone": p95 / own,
        "at once": found.at_once,
        "overdue": overdue,
        "failed": failed,
    }
    return Sample(figures=figures, seen=str(found), holds=found.each_once)


LONG_COMPUTE = Scenario(
    name="io-long-compute",
    title="200 queued tasks that compute for 2 s, and may take 20 s",
    contestants=(LIMITED,),
    run=run_long_compute,
    figures={
        "total s": ".1f",
        "alone s": ".2f",
        "p95 s": ".2f",
        "longest s": ".2f",
        "p95 / alone": ".2f",
        "at once": ".0f",
        "overdue": ".0f",
        "failed": ".0f",
    },
    goals=(
        Goal(figure="overdue", ours=LIMITED, at_most=0),
        Goal(figure="p95 / alone", ours=LIMITED, at_most=2),
    ),
    rounds=1,
    quick_rounds=1,
    paired=True,
    by_default=False,
)
