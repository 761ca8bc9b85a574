"""The job that everybody does: append a line to a file. Notifier does it with its journal: notifications/tasks.py."""

import os

LOG = os.environ["BENCH_LOG"]


def append(line: str) -> None:
    """What a worker calls."""
    with open(LOG, "a", encoding="utf-8") as log:
        log.write(line)
