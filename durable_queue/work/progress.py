"""The row that a worker has in hand, in a small mapped file. The file outlives the worker and its supervisor; writing to it
takes no system call.

The worker writes, and its supervisor watches. The process that frees a dead worker's lease reads which row was in hand.
"""

import mmap
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from durable_queue.conf import cluster_conf

LONGEST_READ = 60  # seconds to unpickle a payload and import its function, where tasks have no timeout


class Stage(IntEnum):
    """How far the row in hand has come."""

    NONE = 0
    READING = 1  # the payload is being checked and unpickled
    RUNNING = 2


class Verdict(IntEnum):
    """Why a supervisor killed the worker."""

    NONE = 0
    OVERDUE = 1
    PARDONED = 2  # the service was stopped, and the grace was over: not the task's fault


@dataclass(frozen=True)
class InHand:
    """The row that a worker had in hand."""

    row: int
    stage: Stage
    verdict: Verdict
    task_id: str
    started: float  # seconds since 1970


_ROW = struct.Struct("=qd32s")  # row, started, task id
_WORKS = 50
_STAGE, _VERDICT, _TICK, _DEADLINE, _SIZE = 48, 49, 56, 64, 72
_TIME = struct.Struct("=d")


def progress_path(name: str) -> Path:
    """Where the worker of this name keeps its file."""
    return cluster_conf.run_dir / f"{name}.progress"


class Progress:
    """One worker's file. Times are of the monotonic clock, which all processes of a host share (clock_gettime(2))."""

    def __init__(self, path: Path) -> None:
        """Make the file, or open the one that is there. Raises OSError."""
        self.path = path
        with path.open("a+b") as file:
            # Written, not only cut to length: a map of a hole that a full disk can't fill would end in SIGBUS.
            file.write(bytes(max(0, _SIZE - file.tell())))
            file.flush()
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def begin(self, row: int, deadline: float) -> None:
        """Note that a row is about to be read, and when (monotonic) it must be done."""
        self._map[_STAGE] = Stage.NONE
        _ROW.pack_into(self._map, 0, row, time.time(), b"")
        _TIME.pack_into(self._map, _DEADLINE, deadline)
        self._map[_STAGE] = Stage.READING

    def run(self, task_id: str, deadline: float) -> None:
        """Note that the row in hand was read, and its task runs."""
        self._map[16:48] = task_id.encode().ljust(32)[:32]
        _TIME.pack_into(self._map, _DEADLINE, deadline)
        self._map[_STAGE] = Stage.RUNNING

    def end(self) -> None:
        """Note that nothing is in hand."""
        self._map[_STAGE] = Stage.NONE
        _TIME.pack_into(self._map, _DEADLINE, 0.0)

    def expect(self, deadline: float) -> None:
        """Note when (monotonic) something that is no row must be done; nobody is charged when it isn't."""
        _TIME.pack_into(self._map, _DEADLINE, deadline)

    def tick(self) -> None:
        """Show that the process gets on."""
        _TIME.pack_into(self._map, _TICK, time.monotonic())

    def work(self) -> None:
        """Show that the worker is ready for tasks."""
        self._map[_WORKS] = 1

    @property
    def works(self) -> bool:
        """Whether the worker is ready for tasks."""
        return bool(self._map[_WORKS])

    def note_verdict(self, verdict: Verdict) -> None:
        """Note why the worker is about to be killed."""
        self._map[_VERDICT] = verdict

    @property
    def last_tick(self) -> float:
        """The last `tick`, or 0."""
        moment: float = _TIME.unpack_from(self._map, _TICK)[0]
        return moment

    @property
    def is_overdue(self) -> bool:
        """Whether what is in hand should be done by now."""
        deadline: float = _TIME.unpack_from(self._map, _DEADLINE)[0]
        return 0.0 < deadline < time.monotonic()

    @property
    def in_hand(self) -> InHand | None:
        """The row in hand, if any."""
        stage = Stage(self._map[_STAGE])
        if stage is Stage.NONE:
            return None
        row, started, task_id = _ROW.unpack_from(self._map, 0)
        return InHand(row, stage, Verdict(self._map[_VERDICT]), task_id.strip(b"\0 ").decode("ascii", "replace"), started)

    def remove(self) -> None:
        """Close and delete the file."""
        self._map.close()
        with suppress(FileNotFoundError):
            self.path.unlink()
