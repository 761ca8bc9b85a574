"""Which of a worker's tasks take long: its row names them, so that every host can see since when they run."""

import time
from collections.abc import Collection
from typing import Any

from durable_queue.task.process import this_process
from durable_queue.work.pace import SLOW_AFTER

NAMED_FROM = SLOW_AFTER / 2  # seconds: when one is named, so are the others that run for so long; soon they would be


class LongTasks:
    """One worker's. A task is named by its id, with when its attempt began, and how many of its calls are done."""

    def __init__(self) -> None:
        self._stored: dict[str, dict[str, Any]] = {}  # what the worker's row says
        self._rows: dict[str, int] = {}  # the ids of the queue rows of these tasks

    @property
    def are_named(self) -> bool:
        """Whether the worker's row names any."""
        return bool(self._stored)

    def are_there(self, now: float) -> bool:
        """Whether any task in hand takes long. `now`: monotonic."""
        return any(now - task.began >= SLOW_AFTER for task in tuple(this_process.in_hand))

    def to_store(self, kept: Collection[int]) -> dict[str, dict[str, Any]] | None:
        """What the worker's row should say, if that is not what it says. `kept`: ids of the rows that it goes on holding."""
        now = time.monotonic()
        tasks = [task for task in tuple(this_process.in_hand) if task.row in kept and now - task.began >= NAMED_FROM]
        # One that has returned a moment ago is held still, until it is settled.
        named = {task_id: said for task_id, said in self._stored.items() if self._rows[task_id] in kept}
        named |= {task.id: {"started": task.started.isoformat(), "calls_done": len(task.results)} for task in tasks}
        self._rows |= {task.id: task.row for task in tasks}
        return None if named == self._stored else named

    def note_stored(self, named: dict[str, dict[str, Any]]) -> None:
        """The worker's row says this now."""
        self._stored = named
        self._rows = {task_id: self._rows[task_id] for task_id in named}
