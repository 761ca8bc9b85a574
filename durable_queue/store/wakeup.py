""" "There is work": a hint between the processes of one host, so that nobody has to poll quickly. Never the truth.

A FIFO for each queue. A number in it is one hint; it may be lost, for the workers look for themselves now and then.
"""

import functools
import hashlib
import os
import select
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from durable_queue.conf import cluster_conf

_HINT = struct.Struct("=I")
_READ = 1024 * _HINT.size  # bytes at a time
_NEWEST = 4  # how many of the numbers that were read are handed on: what was announced before is committed by now, most likely


# How long (seconds) a worker waits for a task that is announced: a COMMIT may take its time (a standby does not answer …), and
# what else is due need not.
AWAITED = 0.1


def is_late(announced: float) -> bool:
    """Whether the worker that was told at that moment (monotonic) may not have waited until now."""
    return time.monotonic() - announced > AWAITED / 2


@functools.cache
def _fifo(queue: str) -> Path:
    # A queue's name may hold any character; a file's may not.
    return cluster_conf.run_dir / f"wakeup-{hashlib.sha256(queue.encode()).hexdigest()[:16]}"


def wake(queue: str, announced: int = 0) -> None:
    """Wake one of the queue's idle workers on this host, if there is any. Never raises, never waits.

    `announced`: the number (32 bits) of work that is about to be committed; 0 when it is.
    """
    for _ in range(2):  # the second time with the FIFO opened again, when its listener is gone
        try:
            mouth = _mouth(queue)  # held till the end: it must not be closed, and its descriptor become another file's, before
            os.write(mouth.descriptor, _HINT.pack(announced))
        except BrokenPipeError:
            _mouth.cache_clear()  # the next listener may have made another FIFO
        except OSError:
            return  # ENXIO: nobody listens. EAGAIN: thousands of hints are waiting already.
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
        self._poll = select.epoll()
        # A hint wakes one waiting worker (epoll_ctl(2)): others would only keep the processor from the one that is at work.
        self._poll.register(self._fifo, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._poll.register(signals, select.EPOLLIN)

    def close(self) -> None:
        """Hear no more."""
        self._poll.close()
        os.close(self._fifo)

    def wait(self, seconds: float) -> Sequence[int]:
        """Wait for hints that no other worker took; return their numbers, none after a signal or at the time's end."""
        deadline = time.monotonic() + seconds
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll(max(0.0, deadline - time.monotonic()))]
            if self._signals in ready:
                with suppress(BlockingIOError):
                    os.read(self._signals, 4096)
                return ()
            if not ready:
                return ()
            with suppress(BlockingIOError):  # others may have been woken too: a hint is for the one that reads it
                hints = os.read(self._fifo, _READ)
                whole = len(hints) - len(hints) % _HINT.size
                return [number for (number,) in _HINT.iter_unpack(hints[:whole])][-_NEWEST:]
