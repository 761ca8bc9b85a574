"""What processes use: a service's, with all that they have started."""

from collections.abc import Iterable
from contextlib import suppress

import psutil


def tree(roots: Iterable[int]) -> list[psutil.Process]:
    """These processes and all below them."""
    found: dict[int, psutil.Process] = {}
    for pid in roots:
        with suppress(psutil.Error):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                found[process.pid] = process
    return list(found.values())


def cpu_seconds(roots: Iterable[int]) -> float:
    """The processor time that they have used so far, with that of children that have ended."""
    total = 0.0
    for process in tree(roots):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # user, system, and both of the children
    return total


def memory_mib(roots: Iterable[int]) -> float:
    """The memory that they use (PSS: what several share is counted once)."""
    total = 0
    for process in tree(roots):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 2**20
