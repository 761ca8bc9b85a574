"""Processes that tasks start, by the hundred: a scenario of `scripts/chaos`."""

import functools
import signal
import time
from collections.abc import Callable

import psutil
from django_q.models import OrmQ, Success
from django_q.tasks import async_task, result

from durable_queue.models import FailedAttempt
from tests.support.chaos_cluster import cluster, living, reset, workers_of
from tests.support.processes import wait_until

T = "tests.support.surroundings_tasks."
BESIDE = 39  # threads of the worker's forty
LONGEST = 600  # seconds for all pools of one kind


def threads_pools(quick: bool) -> str:
    """Pools of processes, forked in tasks that run alone, then spawned beside 39 threads that log, write and use the ORM."""
    forked, spawned = (10, 2) if quick else (100, 100)
    with cluster("--workers", "1") as process:
        supervisor = psutil.Process(process.pid)
        wait_until(lambda: len(workers_of(supervisor)) == 1, what="the worker works")
        alone = _seconds(supervisor, "use_pools", forked, meanwhile=lambda: time.sleep(0.1))
        beside = _seconds(supervisor, "use_spawned_pools", spawned, meanwhile=_keep_busy)
        ran_beside = Success.objects.filter(func=f"{T}work_beside").count()
        assert ran_beside >= BESIDE, ran_beside
        assert not FailedAttempt.objects.exists(), list(FailedAttempt.objects.values_list("error", flat=True)[:3])
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    return (
        f"{forked} pools forked in tasks that run alone, {alone:.0f} s; {spawned} spawned beside {BESIDE} threads that log, "
        f"write and use the ORM, {beside:.0f} s: no hang, no child left"
    )


def _seconds(supervisor: psutil.Process, function: str, pools: int, *, meanwhile: Callable[[], None]) -> float:
    """How long a task takes that uses so many pools. It ends in time, and so does each process that it has started."""
    reset()
    began = time.monotonic()
    task_id = async_task(f"{T}{function}", pools, timeout=LONGEST)
    while not Success.objects.filter(pk=task_id).exists():
        assert time.monotonic() - began < LONGEST, f"{function} hangs: {supervisor.children(recursive=True)}"
        meanwhile()
    took = time.monotonic() - began
    assert result(task_id) == 0, "a child was left to the task itself"
    wait_until(lambda: not OrmQ.objects.exists(), timeout=30, what="all tasks have ended")
    wait_until(functools.partial(_has_no_grandchildren, supervisor), what="no child is left")
    return took


def _keep_busy() -> None:
    """Have so many others running, or about to, that all threads but one are theirs."""
    if OrmQ.objects.count() <= BESIDE:
        for _ in range(BESIDE + 1 - OrmQ.objects.count()):
            async_task(f"{T}work_beside", 2.0)
    time.sleep(0.1)


def _has_no_grandchildren(supervisor: psutil.Process) -> bool:
    found = [grandchild for child in living(supervisor.children()) for grandchild in living(child.children())]
    # One process of multiprocessing's own serves all spawned pools of a worker, and ends with it.
    return all("multiprocessing.resource_tracker" in " ".join(process.cmdline()) for process in found)
