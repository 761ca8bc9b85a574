"""Tell whether something that is awaited can still come."""

import time

from durable_queue.task.identifiers import is_task_id
from durable_queue.waiting import queued_here
from durable_queue.waiting.database import history, is_queued, may_have_queued

SEARCH_SHARE = 0.05  # of the time that somebody waits: the most that goes into searching the queue


class _Search:
    """A search of the queue for a group, which costs the more, the longer the queue is: the next one waits accordingly."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._next = 0.0

    def finds_none(self) -> bool:
        """Whether the queue has no task of the group. If it is too early for another search: not known, so no."""
        began = time.monotonic()
        if began < self._next:
            return False
        may_be_there = may_have_queued(self._group)
        ended = time.monotonic()
        self._next = ended + (ended - began) / SEARCH_SHARE
        return not may_be_there


class TaskEnd:
    """The end of a task, or of an `Iter`."""

    def __init__(self, name: str) -> None:
        """`name`: its id, or its name."""
        self._name = name
        self._id = name if is_task_id(name) else queued_here.id_of(name)
        self._was_queued = False
        self._parts = _Search(name)

    def is_over(self) -> bool:
        """Whether it has ended, or was deleted. Raises django.db.Error.

        A row that was seen, and then is gone, has ended. What was never seen may not be committed yet.
        """
        if queued_here.is_uncommitted(self._name):
            return True
        if self._id is None:
            return False
        if is_queued(self._id):
            self._was_queued = True
            return False
        if self._was_queued or queued_here.has_queued(self._id):
            return True
        return queued_here.tasks_of(self._id) > 0 and self._parts.finds_none()

    def is_over_or_kept(self) -> bool:
        """The same for those who look elsewhere than in the history: it may have ended and be kept there."""
        return self.is_over() or (self._id is not None and history().filter(pk=self._id).exists())


class GroupEnd:
    """The end of a group, or of a chain."""

    def __init__(self, group: object, count: int | None, *, is_chain: bool) -> None:
        """`count`: how many of its tasks are awaited, if not any."""
        self._group = group if isinstance(group, str) else None
        self._count = count or 1
        self._is_chain = is_chain
        self._was_seen = False
        self._search = _Search(self._group or "")

    def is_over(self, ended: int) -> bool:
        """Whether no further task of it can end. `ended`: how many of it are kept as ended. Raises django.db.Error.

        Of a chain, one task is in the queue until its last one has ended or one has failed. To a group, others may be about
        to add tasks, unless this process has queued as many as are awaited.
        """
        if self._group is None:
            return False
        if queued_here.is_uncommitted(self._group):
            return True
        queued = queued_here.tasks_of(self._group)
        if self._is_chain or queued_here.is_chain(self._group):
            self._was_seen = self._was_seen or bool(ended or queued)
        elif queued < self._count:
            return False
        else:
            self._was_seen = True
        return self._was_seen and self._search.finds_none()
