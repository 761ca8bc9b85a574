"""What queues the work: runs in a peer's own environment, where `jobs` is that peer's.

    client.py prepare               create the tables
    client.py enqueue COUNT         queue COUNT lines, one call each; print the seconds that it took
    client.py latency COUNT LIMIT   queue one line at a time on an idle system, for LIMIT seconds at most; print, as JSON,
                                    the seconds from the call until the line stands in the file
    client.py slow JOB FIRST COUNT SIZE
                                    queue COUNT jobs of slow.py, numbered from FIRST, each of this size: seconds, or turns
    client.py mixed COUNT SLOW SECONDS
                                    queue COUNT quick jobs, and evenly among them SLOW that wait so long

Each `jobs` module has `prepare()`, and `enqueue(line)`, which queues `append(line)` (job.py). Those that `slow` and `mixed`
are asked of have `enqueue_slow(job, number, size)`, too.
"""

import json
import os
import random
import sys
import time

import jobs
from line import LENGTH, LINE

LOG = os.environ["BENCH_LOG"]
PAUSE = (0.02, 0.08)  # seconds between two: at random, to be in step with nobody's polling
GLANCE = 0.0001  # seconds between two looks at the file
PATIENCE = 60  # seconds for a line


def enqueue(count: int) -> float:
    """Queue many lines; return the seconds that it took."""
    started = time.perf_counter()
    for number in range(count):
        jobs.enqueue(LINE.format(number))
    return time.perf_counter() - started


def latency(count: int, limit: float) -> list[float]:
    """Queue lines one by one; return how long (seconds) each took to appear. The first is a warm-up, and not counted."""
    delays = []
    deadline = None
    for number in range(count + 1):
        started = time.perf_counter()
        jobs.enqueue(LINE.format(number))
        wait_for_size(LENGTH * (number + 1))
        delays.append(time.perf_counter() - started)
        deadline = deadline or time.perf_counter() + limit
        if time.perf_counter() > deadline:
            break
        time.sleep(random.uniform(*PAUSE))
    return delays[1:]


def mixed(count: int, slow: int, seconds: float) -> None:
    """Queue quick jobs and slow ones."""
    for number in range(count):
        if slow and number % (count // slow) == 0:
            jobs.enqueue_slow("wait", number, seconds)
        jobs.enqueue_slow("quick", number, 0)


def wait_for_size(size: int) -> None:
    """Return when the file is so long."""
    deadline = time.perf_counter() + PATIENCE
    while not os.path.exists(LOG) or os.stat(LOG).st_size < size:
        if time.perf_counter() > deadline:
            raise SystemExit(f"No line within {PATIENCE} s")
        time.sleep(GLANCE)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare"]:
            jobs.prepare()
        case ["enqueue", count]:
            print(enqueue(int(count)))
        case ["latency", count, limit]:
            print(json.dumps(latency(int(count), float(limit))))
        case ["slow", job, first, count, size]:
            for number in range(int(first), int(first) + int(count)):
                jobs.enqueue_slow(job, number, float(size))
        case ["mixed", count, slow, seconds]:
            mixed(int(count), int(slow), float(seconds))
