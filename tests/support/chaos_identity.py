"""Tasks whose states are watched while workers are killed: a scenario of `scripts/chaos`."""

import contextlib
import random
import time

import psutil

from durable_queue.states import State
from tests.support.chaos_cluster import FOLDER, assert_attempts_add_up, managed_cluster, supervisor_of, workers_of
from tests.support.identity_tasks import Witness, queue_all

KILL_EVERY = 0.5  # seconds


def identity(quick: bool) -> str:
    """Two hundred tasks run while workers are killed. Each has one state at every moment, and only those that may follow."""
    count, kills = (40, 3) if quick else (200, 30)
    marks = FOLDER / f"identity-{time.time_ns()}"
    marks.mkdir()
    killed, last = 0, time.monotonic()
    with managed_cluster() as manager:

        def kill_now_and_then() -> None:
            nonlocal killed, last
            if killed < kills and time.monotonic() - last > KILL_EVERY:
                last = time.monotonic()
                with contextlib.suppress(psutil.Error):
                    if workers := workers_of(supervisor_of(manager)):
                        random.choice(workers).kill()
                        killed += 1

        witness = Witness(queue_all(count, marks))
        witness.watch(kill_now_and_then, seconds=300)
        assert_attempts_add_up()
    ends = [seen[-1].state for seen in witness.seen.values()]
    assert ends.count(State.FAILED) <= count // 4, ends
    steps = ", ".join(f"{count} {old} → {new}" for (old, new), count in sorted(witness.steps.items()))
    return f"{count} tasks, {witness.looks} looks, {killed} kills: {steps}"
