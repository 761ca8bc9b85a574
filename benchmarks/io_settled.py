"""Settled: from the end of a slow task to its row in history, in one worker, whatever its other threads do meanwhile."""

import json
import statistics
from dataclasses import replace

from benchmarks import effects, io_post
from benchmarks import io_drain as drain
from benchmarks.contestants import PEERS, Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import stage

SETTLE = PEERS / "notifier" / "settle.py"
TRIES, QUICK_TRIES = 8, 3
COMPUTING = 1.2  # seconds

_ONE = replace(
    io_post.NOTIFIER,
    workers=tuple((*words[:-1], "1") for words in io_post.NOTIFIER.workers),  # of `--workers 2`
)
WAITING = replace(_ONE, name="notifier-waiting", title="the leader waits")
BUSY = replace(_ONE, name="notifier-busy", title="the leader computes")
NOBODY = replace(
    _ONE,
    name="notifier-nobody",
    title="no thread leads: both of 2 are busy",
    env={**_ONE.env, "NOTIFIER_QUEUE_THREADS": "2"},
)
TASKS = {WAITING.name: 1, BUSY.name: 2, NOBODY.name: 2}  # in a try


def run(contestant: Contestant, quick: bool) -> Sample:
    """Have the script try it some times."""
    tries = QUICK_TRIES if quick else TRIES
    situation = contestant.name.removeprefix("notifier-")
    turns = drain.turns_for(COMPUTING)
    with stage(contestant) as place:
        with place.workers():
            io_post.be_ready(place, workers=1)
            answer = place.client(situation, str(tries), str(turns), script=SETTLE)
        delays = [1000 * delay for delay in json.loads(answer)]
        found = effects.read(place.effects, wanted=(tries + 1) * TASKS[contestant.name])
    figures = {"p50 ms": statistics.median(delays), "slowest ms": max(delays)}
    return Sample(figures=figures, seen=str(found), holds=found.each_once)


SETTLED = Scenario(
    name="io-settled",
    title="from the end of a slow task to its row in history, in one worker",
    contestants=(WAITING, BUSY, NOBODY),
    run=run,
    figures={"p50 ms": ",.1f", "slowest ms": ",.1f"},
    goals=tuple(Goal(figure="slowest ms", ours=contestant, at_most=150) for contestant in (WAITING, BUSY, NOBODY)),
    rounds=5,
    paired=True,
)
