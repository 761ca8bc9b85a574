"""A place in a worker's file for what one of its threads or coroutines has in hand."""

import mmap
import struct
import time
from dataclasses import dataclass
from enum import IntEnum


class Stage(IntEnum):
    """How far what a thread or a coroutine has in hand has come."""

    NONE = 0
    READING = 1  # the payload is being checked and unpickled
    RUNNING = 2
    HOOK = 3  # a hook of a task that has ended: no row
    HELD_UP = 5  # it can't go on, because of another task that blocks its event loop
    FINISHED = 4  # the task has returned, but what it came to is not settled yet


@dataclass(frozen=True)
class InHand:
    """A row that a worker has, or had, in hand."""

    row: int
    stage: Stage
    task_id: str
    started: float  # seconds since 1970
    deadline: float  # monotonic; 0 for none

    def is_overdue(self, now: float) -> bool:
        """Whether it should be done by that moment (monotonic), and nothing holds it up."""
        return 0.0 < self.deadline < now and self.stage is not Stage.HELD_UP


_STAGES = frozenset(Stage)
_SLOT = struct.Struct("=qdd32sB7xq")  # row, started, deadline, task id, stage, finished row
_ROW, _DEADLINE, _TASK, _STAGE, _FINISHED = 0, 16, 24, 56, 64  # where they are in a slot
_TIME = struct.Struct("=d")
_ID = struct.Struct("=q")
SIZE = _SLOT.size  # bytes


class Slot:
    """The place of one thread or coroutine."""

    def __init__(self, file: mmap.mmap, at: int) -> None:
        self._map = file
        self._at = at

    def begin(self, row: int, deadline: float) -> None:
        """Note the row in hand before it is read. `deadline`: when (monotonic) it must be done; 0 for never.

        Each step leaves the slot true or empty, wherever the process is killed.
        """
        self._map[self._at + _STAGE] = Stage.NONE
        _SLOT.pack_into(self._map, self._at, row, time.time(), deadline, b"", Stage.NONE, 0)
        self._map[self._at + _STAGE] = Stage.READING

    def run(self, task_id: str) -> None:
        """Note that the row in hand was read, and its task runs."""
        at = self._at
        self._map[at + _TASK : at + _TASK + 32] = task_id.encode().ljust(32)[:32]
        self._map[at + _STAGE] = Stage.RUNNING

    def extend(self, deadline: float) -> None:
        """Note when (monotonic) what is in hand must be done; 0 for never."""
        _TIME.pack_into(self._map, self._at + _DEADLINE, deadline)

    def hold_up(self) -> None:
        """Note that what runs is held up by another task."""
        if self._map[self._at + _STAGE] == Stage.RUNNING:
            self._map[self._at + _STAGE] = Stage.HELD_UP

    def go_on(self) -> None:
        """Note that nothing holds it up any more."""
        if self._map[self._at + _STAGE] == Stage.HELD_UP:
            self._map[self._at + _STAGE] = Stage.RUNNING

    def begin_hook(self, deadline: float) -> None:
        """Note a hook, and when (monotonic) it must be done. No task is charged when it isn't."""
        _SLOT.pack_into(self._map, self._at, 0, time.time(), deadline, b"", Stage.HOOK, 0)

    def end(self) -> None:
        """Note that nothing is in hand."""
        self._map[self._at + _STAGE] = Stage.NONE
        _TIME.pack_into(self._map, self._at + _DEADLINE, 0.0)

    def finish(self) -> None:
        """Note that the row in hand has finished, and is not settled yet."""
        self._map[self._at + _FINISHED : self._at + _FINISHED + 8] = self._map[self._at + _ROW : self._at + _ROW + 8]
        self.end()

    def forget(self, row: int) -> None:
        """Note that a row has been settled, if it is the one that finished here last."""
        if _ID.unpack_from(self._map, self._at + _FINISHED)[0] == row:
            _ID.pack_into(self._map, self._at + _FINISHED, 0)

    def read(self) -> InHand | None:
        """What is in hand here, or has finished last and is not settled yet."""
        row, started, deadline, task_id, stage, finished = _SLOT.unpack_from(self._map, self._at)
        if finished and stage == Stage.NONE:
            stage = Stage.FINISHED
        if stage == Stage.NONE or stage not in _STAGES:
            return None
        return InHand(row, Stage(stage), task_id.strip(b"\0 ").decode("ascii", "replace"), started, deadline)
