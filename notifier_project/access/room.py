"""Whether there is room for more tasks: by the number of those that wait, and by the free disk."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from django.db import close_old_connections
from django.http import HttpResponse

from notifier_project.access.lookout import Lookout
from notifier_project.refusals import refuse

FRESH = 3.0  # seconds for which a figure counts; without a fresh one, tasks are accepted
MEGABYTE = 1_000_000


class Room:
    """Refuses what would queue a task while there is no room."""

    def __init__(self, *, max_backlog: int | None, min_free_disk: int | None, folders: Sequence[Path]) -> None:
        """`min_free_disk`: megabytes, on the disks of these folders. None: no limit."""
        self._max_backlog, self._min_free, self._folders = max_backlog, min_free_disk, folders
        self._backlog_full_at = self._disk_full_at = -FRESH  # when (monotonic) that was last seen
        self._lookouts = [
            Lookout(look)
            for look, limit in ((self._look_at_backlog, max_backlog), (self._look_at_disk, min_free_disk))
            if limit is not None
        ]

    def refusal(self) -> HttpResponse | None:
        """503 while there is no room."""
        for lookout in self._lookouts:
            lookout.begin()
        since = time.monotonic() - FRESH
        if self._backlog_full_at > since:
            return refuse(503, "Too many tasks are waiting. Please try again later.", {"Retry-After": "5"})
        if self._disk_full_at > since:
            return refuse(503, "The disk is nearly full. Please try again later.", {"Retry-After": "60"})
        return None

    def _look_at_backlog(self) -> None:
        from durable_queue.store.figures import backlog  # noqa: PLC0415 - it imports models, which must be loaded first

        began = time.monotonic()
        close_old_connections()
        waiting = backlog(fresh=FRESH)
        is_full = waiting is not None and self._max_backlog is not None and waiting >= self._max_backlog
        self._backlog_full_at = began if is_full else -FRESH

    def _look_at_disk(self) -> None:
        began = time.monotonic()
        is_full = self._min_free is not None and any(free < self._min_free * MEGABYTE for free in self._free())
        self._disk_full_at = began if is_full else -FRESH

    def _free(self) -> list[int]:
        """The bytes that are free on each disk. A folder that is not there has none: the log's may be on another host."""
        free = []
        for folder in self._folders:
            with suppress(OSError):
                found = os.statvfs(folder)
                free.append(found.f_bavail * found.f_frsize)
        return free
