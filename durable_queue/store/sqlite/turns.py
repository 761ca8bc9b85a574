"""Turns: the writers of one SQLite database line up by a lock on a file. It only saves time; SQLite's own locks stay.

SQLite lets one writer in at a time. The others sleep for 1, 2, 5, 10 … ms before they look again
(https://www.sqlite.org/c3ref/busy_timeout.html). A write takes 0.1 ms: without turns, the writers would sleep most of the time.
"""

import fcntl
import os
import threading
import time

from django.db.backends.base.base import BaseDatabaseWrapper

from durable_queue.conf import cluster_conf

LONGEST = 0.1  # seconds that a process waits for its turn; then it goes on without it: SQLite's lock decides
PAUSE = 0.0001  # seconds between two tries; flock(2) can wait by itself, but without a time limit
LONGEST_COURTESY = 0.5  # seconds that a task which is about to write waits for those that have, or wait for, their turn
COURTESY_PAUSE = 0.001  # seconds between two looks

_own = threading.local()


class Turn:
    """This process's turn to write. Inside a transaction there is none. Taking or ending a turn never raises."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        # Inside a transaction this process may hold the database's lock. The process with the turn would wait for it,
        # and it for the process with the turn.
        self._lock = -1 if connection.in_atomic_block else _lock()

    def __enter__(self) -> bool:
        """Whether this process has got its turn. A process that hears of the write now gets its turn after it."""
        deadline = 0.0
        while self._lock >= 0:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                now = time.monotonic()
                deadline = deadline or now + LONGEST
                if now > deadline:
                    return False
            else:
                return True
            time.sleep(PAUSE)
        return False

    def __exit__(self, *_: object) -> None:
        if self._lock >= 0:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def give_way() -> None:
    """Wait while one of the queue's own writers has its turn. It may be waiting for SQLite's lock, which a task holds."""
    lock, deadline = _lock(), time.monotonic() + LONGEST_COURTESY
    while lock >= 0 and time.monotonic() < deadline:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(COURTESY_PAUSE)
        else:
            fcntl.flock(lock, fcntl.LOCK_UN)
            return


def _lock() -> int:
    """This thread's descriptor of the lock file, or -1. A forked child opens its own: it must not share its parent's turn."""
    if getattr(_own, "pid", 0) != os.getpid():
        try:
            cluster_conf.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _own.lock = _Lock()
        except OSError:
            return -1
        _own.pid = os.getpid()
    return int(_own.lock.descriptor)


class _Lock:
    """The lock file, open as long as its thread lives."""

    def __init__(self) -> None:
        self.descriptor = os.open(cluster_conf.run_dir / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
