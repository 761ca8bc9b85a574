"""Move SQLite's log into the database in the background, so that no commit has to do it.

https://www.sqlite.org/wal.html#checkpointing: by default each writer does so every 1,000 pages, and
its caller waits for the disk. Here a thread of each web process does it, and the upkeep process.
"""

import os
import threading
import time

from django.db import connections
from django_q.conf import logger

LONG_LOG = 12_000  # pages; a longer log is started again from its beginning, and every writer has to wait for that
PAUSE = 0.5  # seconds between two checkpoints of the upkeep process
RESTART_WAIT = 50  # ms that such a restart may wait for readers, while all writers wait for it


class Checkpoints:
    """Those of one process."""

    def __init__(self, using: str) -> None:
        """`using`: the database's alias."""
        self._using = using
        self._seen = 0

    def step_and_pause(self) -> float:
        """The same as a duty of upkeep's: return the seconds until the next time."""
        self.step()
        return PAUSE

    def step(self) -> None:
        """Do what there is to do, if anything. Raises django.db.Error."""
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
                # Writers came in between, or the log would have restarted by itself. The pages that they left are few.
                timeout = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
                cursor.execute(f"PRAGMA busy_timeout={RESTART_WAIT}")
                cursor.execute("PRAGMA wal_checkpoint(RESTART)")
                cursor.execute(f"PRAGMA busy_timeout={timeout}")


def begin(using: str, *, pause: float) -> None:
    """Have a thread do it for as long as the process lives, every `pause` seconds."""

    def go_on() -> None:
        checkpoints = Checkpoints(using)
        while True:
            time.sleep(pause)
            try:
                checkpoints.step()
            except Exception as error:
                logger.warning("A checkpoint failed, and will be tried again: %s", error)
                connections[using].close()

    threading.Thread(target=go_on, name="checkpoints", daemon=True).start()
