"""The tasks that a worker has in hand, in a small mapped file. The file outlives the worker and its supervisor; writing to
it takes no system call.

The worker writes, and its supervisor watches. The process that frees a dead worker's lease reads what was in hand.
"""

import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path

from durable_queue.conf import cluster_conf
from durable_queue.work.slot import SIZE, InHand, Slot, Stage


class Verdict(IntEnum):
    """Why a supervisor killed the worker."""

    NONE = 0
    OVERDUE = 1  # what is over its limit is charged, and nothing else
    PARDONED = 2  # the service was stopped, and the grace was over: not the tasks' fault


_VERDICTS = frozenset(Verdict)
_TICK = struct.Struct("=d")
_COUNT = struct.Struct("=I")
_WORKS, _VERDICT, _RETIRES, _TOLD, _USED, _BEGUN, _JUDGED = 8, 9, 10, 11, 12, 16, 24
_HEAD = 32
_TIME = struct.Struct("=d")


def progress_path(name: str) -> Path:
    """Where the worker of this name keeps its file."""
    return cluster_conf.run_dir / f"{name}.progress"


class Progress:
    """One worker's file. Times are of the monotonic clock, which all processes of a host share (clock_gettime(2))."""

    def __init__(self, path: Path, slots: int = 1) -> None:
        """Open the file; create it, with so many slots, if it isn't there. Raises OSError."""
        self.path = path
        with path.open("a+b") as file:
            if not file.tell():
                os.posix_fallocate(file.fileno(), 0, _HEAD + slots * SIZE)  # else a full disk would kill it (mmap(2), SIGBUS)
            self._map = mmap.mmap(file.fileno(), 0)
        self._slots, rest = divmod(len(self._map) - _HEAD, SIZE)
        if rest:  # a worker of an earlier version left it, with one row in hand at most: it goes back uncharged
            self._slots = 0

    def slot(self, number: int) -> Slot:
        """The slot with this number, from 0."""
        used: int = _COUNT.unpack_from(self._map, _USED)[0]
        _COUNT.pack_into(self._map, _USED, max(used, number + 1))
        return Slot(self._map, _HEAD + number * SIZE)

    # What the worker says of itself.

    def tick(self) -> None:
        """Show that the process gets on."""
        _TICK.pack_into(self._map, 0, time.monotonic())

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Show so all the time, while the calling thread waits: the database may give no answer for long."""
        is_over = threading.Event()

        def tick() -> None:
            while not is_over.wait(1.0):
                self.tick()

        self.tick()
        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def work(self) -> None:
        """Show that the worker is ready for tasks."""
        self._map[_WORKS] = 1

    def retire(self) -> None:
        """Show that the worker claims nothing more: it ends once what it has in hand has ended."""
        self._map[_RETIRES] = 1

    def count_begun(self) -> int:
        """Count one more task that has begun; return how many have. One thread at a time."""
        begun = self.begun + 1
        _COUNT.pack_into(self._map, _BEGUN, begun & 0xFFFF_FFFF)
        return begun

    # What the supervisor says of it.

    def note_verdict(self, verdict: Verdict) -> None:
        """Note why the worker is about to be killed, and when."""
        _TIME.pack_into(self._map, _JUDGED, time.monotonic())
        self._map[_VERDICT] = verdict

    def tell_to_stop(self) -> None:
        """Tell the worker to stop, in addition to the signal: a task may have set that aside."""
        self._map[_TOLD] = 1

    # What others read.

    @property
    def is_told_to_stop(self) -> bool:
        """Whether the worker is to stop."""
        return bool(self._map[_TOLD])

    @property
    def works(self) -> bool:
        """Whether the worker is ready for tasks."""
        return bool(self._map[_WORKS])

    @property
    def retires(self) -> bool:
        """Whether the worker claims nothing more."""
        return bool(self._map[_RETIRES])

    @property
    def verdict(self) -> Verdict:
        """Why the worker was killed."""
        number = self._map[_VERDICT]
        return Verdict(number) if number in _VERDICTS else Verdict.NONE

    @property
    def judged(self) -> float:
        """When (monotonic) its verdict was noted."""
        moment: float = _TIME.unpack_from(self._map, _JUDGED)[0]
        return moment

    @property
    def begun(self) -> int:
        """How many tasks have begun; also for forked children of the worker."""
        count: int = _COUNT.unpack_from(self._map, _BEGUN)[0]
        return count

    @property
    def last_tick(self) -> float:
        """The last `tick`, or 0."""
        moment: float = _TICK.unpack_from(self._map, 0)[0]
        return moment

    @property
    def in_hand(self) -> list[InHand]:
        """The rows in hand, and the hooks, whose row is 0."""
        return [found for found in self._read() if found.stage != Stage.FINISHED]

    @property
    def finished(self) -> list[InHand]:
        """The last row that finished in each thread, if it is not settled yet and no other one has begun there."""
        return [found for found in self._read() if found.stage == Stage.FINISHED]

    def _read(self) -> Iterator[InHand]:
        used: int = _COUNT.unpack_from(self._map, _USED)[0] if self._slots else 0
        for number in range(min(used, self._slots)):
            if found := Slot(self._map, _HEAD + number * SIZE).read():
                yield found

    def remove(self) -> None:
        """Close and delete the file."""
        self._map.close()
        delete(self.path)


def delete(path: Path) -> None:
    """Delete a worker's file, if that is possible: another user may own it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
