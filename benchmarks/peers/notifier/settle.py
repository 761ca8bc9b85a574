"""How long a slow result takes to get into history: runs in Notifier's environment, while one worker runs.

    settle.py waiting TRIES         the worker's other threads have nothing to do
    settle.py busy TRIES TURNS      one of them computes so many turns of slow.spin
    settle.py nobody TRIES          both of its two threads are busy: with longer tasks, which end after the one that is timed

Prints, as JSON, the seconds from the end of each slow task, which it notes itself, until its row is seen.
"""

import json
import os
import random
import sys
import time
from pathlib import Path

import django

django.setup()

from django.db import connection  # noqa: E402
from jobs import enqueue_slow  # noqa: E402

SLOW, LONGER = 0.4, 1.0  # seconds
LEAD = 0.1  # seconds by which the slow task starts before the other one
GLANCE = 0.001  # seconds between two looks
PATIENCE = 30  # seconds for a row


def main(situation: str, tries: int, turns: int) -> list[float]:
    """One try after the other; the first, in which the worker gets to know the functions, is not counted."""
    delays = []
    for number in range(tries + 1):
        enqueue_slow("wait", number, SLOW)
        if situation != "waiting":
            time.sleep(LEAD)
        if situation == "busy":
            enqueue_slow("compute", number, turns)
        elif situation == "nobody":
            enqueue_slow("wait", 1_000_000 + number, LONGER)
        seen = when_seen(f"wait {number}")
        delays.append(seen - end_of("wait", number))
        if situation == "busy":
            when_seen(f"compute {number}")
            if end_of("compute", number) < seen:
                print(f"The other task of try {number} was over too early", file=sys.stderr)
        elif situation == "nobody":
            when_seen(f"wait {1_000_000 + number}")
        time.sleep(random.uniform(0.05, 0.3))
    return delays[1:]


def when_seen(name: str) -> float:
    """Wait for a task's history row; return when it was seen."""
    deadline = time.monotonic() + PATIENCE
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT 1 FROM django_q_task WHERE name = %s", [name])
            if cursor.fetchone():
                return time.time()
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} has no history row within {PATIENCE} s")
            time.sleep(GLANCE)


def end_of(job: str, number: int) -> float:
    """When a job ended, as it has noted itself."""
    rows = [line.split() for line in Path(os.environ["BENCH_EFFECTS"]).read_text().splitlines()]
    return next(float(row[5]) for row in rows if row[0] == job and int(row[1]) == number)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int([*sys.argv, "0"][3]))))
