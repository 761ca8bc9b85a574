"""The worker, as its attempts see it: is the task still held, is it in hand, keep this note."""

import os
import threading

from durable_queue.models import Worker
from durable_queue.store.databases import table_of
from durable_queue.store.queue_connection import outside_of_event_loops, own_connection
from durable_queue.task.uninterrupted import uninterrupted
from durable_queue.work.notes import Notes
from durable_queue.work.progress import Progress


class Keeper:
    """What the attempts of a worker need of it: durable_queue/task/running.py, `Keeper`."""

    def __init__(self, me: Worker, progress: Progress) -> None:
        """`me`: the worker's row. `progress`: its file, whose memory forked children share."""
        self._me = me
        self._progress = progress
        self.notes = Notes()
        self.pid = os.getpid()
        self._last = ""  # the id of the task that began last
        self._lock = threading.Lock()

    @outside_of_event_loops
    def is_held(self, row: int) -> bool:
        """Whether the worker's lease holds a queue row, by the database."""
        with uninterrupted(), own_connection() as connection:
            return self._me.lease is not None and table_of(connection).is_held(row, self._me.lease)

    def is_in_hand(self, task_id: str) -> bool:
        """Whether the worker runs this task now, also as a forked child of the worker sees it."""
        return any(in_hand.task_id == task_id for in_hand in self._progress.in_hand)

    def note_begun(self, task_id: str) -> int:
        """Note that a task begins; return how many have. Another attempt at the same one is no other task."""
        with self._lock:
            if task_id == self._last:
                return self._progress.begun
            self._last = task_id
            return self._progress.count_begun()

    def begun(self) -> int:
        """How many tasks the worker has begun, also as a forked child of the worker sees it."""
        return self._progress.begun

    def keep_note(self, task_id: str, text: str) -> None:
        """Keep a note of a task."""
        with uninterrupted():
            self.notes.send(task_id, text)
