"""POSTs over HTTP while clients wait for the ends of tasks: what waiting costs the others, and how soon who waits is told."""

import statistics
import time
from dataclasses import replace

from benchmarks import contestants as c
from benchmarks import usage, wrk
from benchmarks.accept import QUICK_SECONDS, SECONDS, WARM_UP, wait_for_lines
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import Stage, stage
from benchmarks.waiters import Waiters, post

CLIENTS = 1000
PLACES = 4001  # more than two web processes have
ANSWERED = 5.0  # seconds in which all are answered for whom there is no place
LIMIT = 60.0  # seconds in which all awaited tasks end

NOBODY = replace(c.NOTIFIER, title="Notifier, nobody waiting")
WAITED = replace(c.NOTIFIER, name="notifier-waited", title=f"Notifier, {CLIENTS:,} clients waiting")
NOBODY_POSTGRESQL = replace(c.NOTIFIER_POSTGRESQL, title="Notifier on PostgreSQL, nobody waiting")
WAITED_POSTGRESQL = replace(
    c.NOTIFIER_POSTGRESQL, name="notifier-postgresql-waited", title=f"Notifier on PostgreSQL, {CLIENTS:,} clients waiting"
)


def run(contestant: Contestant, quick: bool) -> Sample:
    """Post, while all wait or nobody does. Then have the workers run, and see how late each one that waits is answered."""
    is_waited = contestant.name.endswith("-waited")
    with stage(contestant) as place, place.web() as port:
        ids = post(port, CLIENTS)
        with Waiters(port, ids if is_waited else ()) as waiters:
            figures, answered = _accepted(place, port, quick)
            with place.workers():
                waiters.wait(LIMIT)
                found = wait_for_lines(place, len(ids) + answered)
        if is_waited:
            figures |= {"told ms p50": 1000 * statistics.median(waiters.late), "told ms slowest": 1000 * max(waiters.late)}
        if is_waited and not quick:
            figures |= {"waiting at most": _places(port)}
    told = len(waiters.late) == len(ids) or not is_waited
    return Sample(figures=figures, seen=f"{found}; {len(waiters.late):,} told", holds=found.each_once and told)


def _accepted(place: Stage, port: int, quick: bool) -> tuple[dict[str, float], int]:
    """The figures of many POSTs, and how many were answered."""
    warm = wrk.post(port, connections=4, seconds=WARM_UP, tag="warm").answered
    used = usage.cpu_seconds(place.pids)
    answers = wrk.post(port, connections=32, seconds=QUICK_SECONDS if quick else SECONDS, tag="posted")
    cost = 1e6 * (usage.cpu_seconds(place.pids) - used) / answers.answered
    figures = {"accepted/s": answers.rate, "p99 ms": answers.p99, "refused": answers.refused, "CPU µs": cost}
    return figures, warm + answers.answered


def _places(port: int) -> float:
    """How many can wait at a time, of more than that."""
    ids = post(port, 1) * PLACES
    with Waiters(port, ids, again=False) as waiters:
        time.sleep(ANSWERED)
        return float(len(ids) - waiters.early - len(waiters.late))


WAITING = Scenario(
    name="waiting",
    title=f"POSTs accepted by 2 web processes over 32 connections, {CLIENTS:,} clients waiting for the ends of other tasks",
    contestants=(WAITED, NOBODY, WAITED_POSTGRESQL, NOBODY_POSTGRESQL),
    run=run,
    figures={
        "accepted/s": ",.0f",
        "p99 ms": ",.1f",
        "refused": ",.0f",
        "CPU µs": ",.0f",
        "told ms p50": ",.0f",
        "told ms slowest": ",.0f",
        "waiting at most": ",.0f",
    },
    goals=(
        Goal(figure="accepted/s", ours=WAITED, peers=(NOBODY,), at_least=0.9),
        Goal(figure="accepted/s", ours=WAITED_POSTGRESQL, peers=(NOBODY_POSTGRESQL,), at_least=0.9),
        Goal(figure="told ms slowest", ours=WAITED, at_most=300),
        Goal(figure="told ms slowest", ours=WAITED_POSTGRESQL, at_most=300),
    ),
    rounds=5,
    paired=True,
)
