""" "There is work": a hint between the processes of one host, so that nobody has to poll quickly. Never the truth.

A FIFO for each queue. A byte in it is one hint; it may be lost, for the workers look for themselves now and then.
"""

import functools
import hashlib
import os
import select
import time
from contextlib import suppress
from pathlib import Path

from notifications.cluster.conf import cluster_conf


@functools.cache
def _fifo(queue: str) -> Path:
    # A queue's name may hold any character; a file's may not.
    return cluster_conf.run_dir / f"wakeup-{hashlib.sha256(queue.encode()).hexdigest()[:16]}"


def wake(queue: str) -> None:
    """Wake one of the queue's idle workers on this host, if there is any. Never raises, never waits."""
    for _ in range(2):  # the second time anew, when who listened is gone
        try:
            mouth = _mouth(queue)  # held till the end: it must not be closed, and its descriptor become another file's, before
            os.write(mouth.descriptor, b"!")
        except BrokenPipeError:
            _mouth.cache_clear()  # whoever came next may have made another FIFO
        except OSError:
            return  # ENXIO: nobody listens. EAGAIN: a thousand hints are waiting already.
        else:
            return


class _Mouth:
    """A queue's FIFO, open for hints as long as there is somebody who listens."""

    def __init__(self, queue: str) -> None:
        self.descriptor = os.open(_fifo(queue), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


_mouth = functools.cache(_Mouth)


class Ear:
    """A worker's end: waits for a hint, or for a signal."""

    def __init__(self, queue: str, signals: int) -> None:
        """`signals`: a descriptor that becomes readable when a signal came (signal.set_wakeup_fd). Raises OSError."""
        path = _fifo(queue)
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Open for writing too, so that it never is at its end (fifo(7)).
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._signals = signals

    def wait(self, seconds: float) -> bool:
        """Wait for a hint that no other worker took (True), a signal or the time's end (False)."""
        deadline = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select([self._fifo, self._signals], [], [], max(0.0, deadline - time.monotonic()))
            if self._signals in ready:
                with suppress(BlockingIOError):
                    os.read(self._signals, 4096)
                return False
            if not ready:
                return False
            with suppress(BlockingIOError):  # all idle workers are woken: the hint is for the one that reads it
                return bool(os.read(self._fifo, 4096))
