"""Tell whether something that is awaited can still come."""

import time

from durable_queue.task.identifiers import is_task_id
from durable_queue.waiting import queued_here
from durable_queue.waiting.database import history, is_queued, may_have_queued

PATIENCE = 10.0  # seconds that somebody waits for what this process may have queued and forgotten: it is committed by then
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
        self._began = time.monotonic()

    def is_over(self) -> bool:
        """Whether it has ended, or was deleted. Raises django.db.Error.

        A row that was seen, and then is gone, has ended. What was never seen may not be committed yet.
        """
        if queued_here.is_uncommitted(self._name):
            return True
        if self._id is None:
            return queued_here.has_forgotten_names() and self._was_patient() and self._parts.finds_none()
        if is_queued(self._id):
            self._was_queued = True
            return False
        if self._was_queued or queued_here.has_queued(self._id):
            return True
        is_forgotten = queued_here.may_have_forgotten(self._id) and self._was_patient()
        return (queued_here.tasks_of(self._id) > 0 or is_forgotten) and self._parts.finds_none()

    def _was_patient(self) -> bool:
        return time.monotonic() - self._began > PATIENCE

    def is_over_or_kept(self) -> bool:
        """The same for those who look elsewhere than in the history: it may have ended and be kept there."""
        return self.is_over() or (self._id is not None and history().filter(pk=self._id).exists())


class GroupEnd:
    """The end of a group, or of a chain."""

    def __init__(self, group: object, count: int | None, *, is_chain: bool) -> None:
        """`count`: how many of its tasks are awaited, if not any."""
        self._group = queued_here.name_of(group)
        self._is_searchable = queued_here.is_searchable(group)
        self._began = time.monotonic()
        self._count = count or 1
        self._is_chain = is_chain
        self._was_seen = False
        self._search = _Search(group) if isinstance(group, str) else None

    def is_over(self, ended: int) -> bool:
        """Whether no further task of it can end. `ended`: how many of it are kept as ended. Raises django.db.Error.

        Of a chain, one task is in the queue until its last one has ended or one has failed. To a group, others may be about
        to add tasks, unless this process has queued as many as are awaited.

        Raises LookupError for a group that the queue can't be searched for, and of whose tasks this process knows nothing.
        """
        if self._group is None:
            return False
        if queued_here.is_uncommitted(self._group):
            return True
        queued = queued_here.tasks_of(self._group)
        is_forgotten = not queued and queued_here.has_forgotten_groups() and time.monotonic() - self._began > PATIENCE
        if not self._is_searchable:
            return self._have_own_ended(queued, is_forgotten=is_forgotten)
        if self._is_chain or queued_here.is_chain(self._group):
            self._was_seen = self._was_seen or bool(ended or queued)
        elif queued < self._count and not is_forgotten:
            return False
        else:
            self._was_seen = True
        self._was_seen = self._was_seen or is_forgotten
        return self._was_seen and self._search is not None and self._search.finds_none()

    def _have_own_ended(self, queued: int, *, is_forgotten: bool) -> bool:
        """The same for a group whose name is no text, or a very long one."""
        if is_forgotten or self._is_chain or queued > queued_here.MOST:
            raise LookupError(
                f"Nobody can tell whether the group {self._group!r} has ended: name groups by text, or set `wait`"
            )
        ids = queued_here.ids_of(self._group or "")
        return queued >= self._count and not any(map(is_queued, ids))
