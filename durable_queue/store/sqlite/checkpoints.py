"""Checkpoints: move SQLite's write-ahead log into the database in the background, so that no commit has to do it.

By default a writer runs a checkpoint every 1,000 pages, and its caller waits for the disk
(https://www.sqlite.org/wal.html#checkpointing). Here the upkeep process runs them, and a thread of each web process.
"""

import os
import threading
import time

from django.db import connections
from django_q.conf import logger

from durable_queue.store.sqlite.table import SQLiteTable

LONG_LOG = 12_000  # pages; a longer log is started again from its beginning, and every writer waits for that
PAUSE = 0.5  # seconds between two checkpoints of the upkeep process
RESTART_WAIT = 0.05  # seconds that such a restart may wait for readers; all writers wait meanwhile


class Checkpoints:
    """The checkpoints of one process."""

    def __init__(self, using: str) -> None:
        """`using`: the database's alias."""
        self._using = using
        self._seen = 0

    def run_and_return_pause(self) -> float:
        """Run a checkpoint if the log has changed; return the seconds until the next one. Raises django.db.Error."""
        self.run_if_changed()
        return PAUSE

    def run_if_changed(self) -> None:
        """Run a checkpoint if the log has changed since the last one. Raises django.db.Error."""
        connection = connections[self._using]
        try:
            changed = os.stat(f"{connection.settings_dict['NAME']}-wal").st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._seen:
            return
        self._seen = changed
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
            _, pages, _ = cursor.fetchone()
            if pages > LONG_LOG:
                # Writers came in between: otherwise the log would have restarted by itself. They have left only a few pages.
                with SQLiteTable(connection).waits_at_most(RESTART_WAIT):
                    cursor.execute("PRAGMA wal_checkpoint(RESTART)")


def begin(using: str, *, pause: float) -> None:
    """Start a thread that runs checkpoints, every `pause` seconds, as long as the process lives."""

    def run_for_ever() -> None:
        checkpoints = Checkpoints(using)
        while True:
            time.sleep(pause)
            try:
                checkpoints.run_if_changed()
            except Exception as error:
                logger.warning("A checkpoint failed, and will be tried again: %s", error)
                connections[using].close()

    threading.Thread(target=run_for_ever, name="checkpoints", daemon=True).start()
