"""Hints between the processes of one host: "there is work". They save the workers from polling quickly.

Each queue has a FIFO, and each number in it is one hint. A hint may be lost, and may be wrong: workers also look at the
table by themselves, now and then.
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
from durable_queue.task.pipes import WriteEnd

_HINT = struct.Struct("=I")
_READ = 1024 * _HINT.size  # bytes at a time
_NEWEST = 4  # the numbers that are handed on, of those that were read: the earlier ones are most likely committed by now

# Seconds that a worker waits for an announced commit. A COMMIT may take long (a standby does not answer …), and the other
# due rows should not wait for it.
AWAITED = 0.1


def is_late(announced: float) -> bool:
    """Whether the worker that was told at this moment (monotonic) may have given up waiting."""
    return time.monotonic() - announced > AWAITED / 2


@functools.cache
def _fifo(queue: str) -> Path:
    # A queue's name may hold any character; a file's may not.
    return cluster_conf.run_dir / f"wakeup-{hashlib.sha256(queue.encode()).hexdigest()[:16]}"


# The bit of a hint's number which says that another worker has heard it first, and passed it on.
PASSED_ON = 1 << 31


def wake(queue: str, announced: int = 0) -> None:
    """Wake one of the queue's idle workers on this host, if there is one. Never raises, never waits.

    `announced`: the number (32 bits) of an announced commit; 0 if the work is committed already.
    """
    for _ in range(2):  # if the listener is gone: a second time, with the FIFO opened again
        try:
            mouth = _mouth(queue)  # held until written: if it were closed, its descriptor could become another file's
            mouth.end.write(_HINT.pack(announced))
        except BrokenPipeError:
            _mouth.cache_clear()  # the next listener may have made another FIFO
        except OSError:
            return  # ENXIO: no worker listens. EAGAIN: thousands of hints are waiting already.
        else:
            return


class _Mouth:
    """A queue's FIFO, opened for writing. Raises OSError if no worker listens."""

    def __init__(self, queue: str) -> None:
        self.end = WriteEnd(os.open(_fifo(queue), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    def __del__(self) -> None:
        if hasattr(self, "end"):
            self.end.close()


_mouth = functools.cache(_Mouth)


class Ear:
    """A worker's end of the FIFO: it waits for a hint, or for a signal."""

    def __init__(self, queue: str, signals: int) -> None:
        """`signals`: a descriptor that becomes readable when the worker is to look for what is new. Raises OSError."""
        path = _fifo(queue)
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Opened for writing too: otherwise it would be at its end once all writers have closed it (fifo(7)).
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._signals = signals
        self._poll = select.epoll()
        # A hint wakes one waiting worker (epoll_ctl(2)). More would only take processor time from the one that works.
        self._poll.register(self._fifo, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._poll.register(signals, select.EPOLLIN)

    def deafen(self) -> None:
        """Hear no hints any more: they are for other workers. Signals go on waking this one. Raises OSError."""
        if self._fifo >= 0:
            self._poll.unregister(self._fifo)
            os.close(self._fifo)
            self._fifo = -1

    def close(self) -> None:
        """Close the worker's end."""
        self.deafen()
        self._poll.close()

    def wait(self, seconds: float) -> Sequence[int]:
        """Wait for hints that no other worker takes; return their numbers. Empty after a signal, or when the time is up."""
        deadline = time.monotonic() + seconds
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll(max(0.0, deadline - time.monotonic()))]
            if self._signals in ready:
                with suppress(BlockingIOError):
                    os.read(self._signals, 4096)
                return ()
            if not ready:
                return ()
            with suppress(BlockingIOError):  # other workers may have been woken too: a hint belongs to the one that reads it
                hints = os.read(self._fifo, _READ)
                whole = len(hints) - len(hints) % _HINT.size
                return [number for (number,) in _HINT.iter_unpack(hints[:whole])][-_NEWEST:]
