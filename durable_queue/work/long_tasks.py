"""Which of a worker's tasks take long: its row names them, so that every host can see since when they run."""

import time
from collections.abc import Collection
from typing import Any, NamedTuple

from durable_queue.task.process import this_process
from durable_queue.work.pace import SLOW_AFTER

NAMED_FROM = SLOW_AFTER / 2  # seconds: when one is named, so are the others that run for so long; soon they would be


class Named(NamedTuple):
    """Tasks as a worker's row names them, by their ids; and the ids of their queue rows."""

    tasks: dict[str, dict[str, Any]]
    rows: dict[str, int]


class LongTasks:
    """One worker's. A task is named by its id, with when its attempt began, and how many of its calls are done."""

    def __init__(self) -> None:
        self._stored = Named({}, {})  # what the worker's row says

    @property
    def are_named(self) -> bool:
        """Whether the worker's row names any."""
        return bool(self._stored.tasks)

    def are_there(self, now: float) -> bool:
        """Whether any task in hand takes long. `now`: monotonic."""
        return any(now - task.began >= SLOW_AFTER for task in tuple(this_process.in_hand))

    def to_store(self, kept: Collection[int]) -> Named | None:
        """What the worker's row should say, if that is not what it says. `kept`: ids of the rows that it goes on holding.

        It changes nothing: the watch asks too, while the leader notes what was stored.
        """
        now, stored = time.monotonic(), self._stored
        tasks = [task for task in tuple(this_process.in_hand) if task.row in kept and now - task.began >= NAMED_FROM]
        # One that has returned a moment ago is held still, until it is settled.
        rows = {task_id: row for task_id, row in stored.rows.items() if row in kept}
        named = {task_id: stored.tasks[task_id] for task_id in rows}
        rows |= {task.id: task.row for task in tasks}
        named |= {task.id: {"started": task.started.isoformat(), "calls_done": len(task.results)} for task in tasks}
        return None if named == stored.tasks else Named(named, rows)

    def note_stored(self, named: Named) -> None:
        """The worker's row says this now."""
        self._stored = named
