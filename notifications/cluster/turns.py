"""Writers of one SQLite database take turns by a lock on a file: a hint, never the truth; SQLite's own locking stays.

SQLite lets in one writer at a time, and has the others sleep for 1, 2, 5, 10 … ms until they look again
(https://www.sqlite.org/c3ref/busy_timeout.html). Between writers of 0.1 ms that is most of the time.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections

from notifications.cluster.conf import cluster_conf

LONGEST = 0.1  # seconds to wait for a turn; then SQLite decides
PAUSE = 0.0001  # seconds between two tries: flock(2) can wait by itself, but not for so long and no longer

_own = threading.local()


@contextmanager
def turn(using: str) -> Iterator[None]:
    """Wait for this process's turn to write, where that helps. Never raises by itself."""
    connection = connections[using]
    # Inside a transaction the database may be locked by us already: to wait then would be to wait for those who wait for us.
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        yield
        return
    lock = _lock()
    _take(lock)
    try:
        yield
    finally:
        if lock >= 0:
            fcntl.flock(lock, fcntl.LOCK_UN)


def _take(lock: int) -> None:
    deadline = 0.0
    while lock >= 0:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            now = time.monotonic()
            deadline = deadline or now + LONGEST
            if now > deadline:
                return None
        time.sleep(PAUSE)
    return None


def _lock() -> int:
    """This thread's descriptor of the lock file: one that was inherited by a fork would be the parent's turn; -1 for none."""
    if getattr(_own, "pid", 0) != os.getpid():
        try:
            cluster_conf.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _own.lock = _Lock()
        except OSError:
            return -1
        _own.pid = os.getpid()
    return int(_own.lock.descriptor)


class _Lock:
    """The lock file, open for as long as its thread lives."""

    def __init__(self) -> None:
        self.descriptor = os.open(cluster_conf.run_dir / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
