"""Writers of one SQLite database take turns by a lock on a file: a hint, never the truth; SQLite's own locking stays.

SQLite lets in one writer at a time, and has the others sleep for 1, 2, 5, 10 … ms until they look again
(https://www.sqlite.org/c3ref/busy_timeout.html). Between writers of 0.1 ms that is most of the time.
"""

import fcntl
import os
import threading
import time

from django.db.backends.base.base import BaseDatabaseWrapper

from durable_queue.conf import cluster_conf

LONGEST = 0.1  # seconds to wait for a turn; then SQLite decides
PAUSE = 0.0001  # seconds between two tries: flock(2) can wait by itself, but not for so long and no longer

_own = threading.local()


class Turn:
    """This process's turn to write, where that helps. Never raises by itself."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        # Inside a transaction we may hold the database's lock: the process whose turn it is would wait for us, and we for it.
        self._lock = -1 if connection.in_atomic_block else _lock()

    def __enter__(self) -> bool:
        """Whether it really is this process's turn. A process that is told of the write now will have its turn after it."""
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
