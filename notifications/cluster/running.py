"""Tells a function that a worker runs which task it is part of: what it needs for an idempotency key."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class RunningTask:
    """The task in hand. Its id stays the same in every attempt, and when a failed task is submitted again."""

    id: str  # 32 hexadecimal digits, in the order of queueing (notifications/cluster/identifiers.py)
    step: int = 0  # which of the task's calls this is, where it has several
    function: tuple[str, object] | None = None  # the call's function, by its dotted path: its retry policy holds
    _keys: int = 0

    def begin_step(self, step: int, path: str, func: object) -> None:
        """Go on to the next of the task's calls."""
        self.step, self.function, self._keys = step, (path, func), 0

    def next_key(self) -> tuple[int, int]:
        """A place within the task, the same for the same place in each attempt: the step, and a count within it."""
        self._keys += 1
        return self.step, self._keys - 1


current_task: ContextVar[RunningTask | None] = ContextVar("current_task", default=None)
