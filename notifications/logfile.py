"""Write to a log that others may read, rotate or delete at any time, and each thing once. Knows no Django.

The log's format leaves no room for ids, so the proof of what stands in it is kept beside it: notifications/journal.py.
docs/exactly-once.md goes through each point at which a writer may be killed.
"""

import os
import stat
import time
from collections.abc import Callable
from enum import Enum
from logging import getLogger
from pathlib import Path

from notifications.disk import NEW_FILE_MODE, sync_folder
from notifications.interrupted import stands_appended
from notifications.journal import PATIENCE, Finished, Journal
from notifications.journal_records import APPEND, VOID, WRITTEN, Intent, made_at
from notifications.replacement import Replacement

logger = getLogger(__name__)

# Opened anew for each write, so that a log that was renamed, deleted or truncated in between simply goes on.
# O_NONBLOCK: a FIFO without a reader is an error at once (ENXIO), not a worker that hangs; files don't mind it.
TO_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK


class Outcome(Enum):
    """What became of a write."""

    WRITTEN = "written"
    WRITTEN_BEFORE = "an earlier attempt had written it"
    SUPERSEDED = "superseded by a newer write"


class LogFile:
    """A log, to be written to by any number of processes of one host. Each of their threads needs an object of its own."""

    def __init__(
        self,
        path: Path,
        *,
        journal_path: Path,
        durable: bool = False,
        finished: Finished | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """`durable`: what is written outlives a power cut as well, at the cost of two or more fsync(2) a write.

        `finished`: of task ids (16 bytes), those that can't come back; with it, the journal is trimmed.
        `patience`: seconds to wait for other writers.
        """
        self.path = path
        self._journal = Journal(journal_path, durable=durable, patience=patience)
        self._replacement = Replacement(self._journal, durable=durable)
        self._durable = durable
        self._finished = finished

    def append(self, text: bytes, *, key: bytes) -> Outcome:
        """Add `text` at the end, in one write(2) and once for each key (24 bytes, the first 16 a task's id).

        Raises OSError (TimeoutError among them), and then nothing of it stands in the log.
        """
        return self._write(self._append, text, key)

    def replace(self, text: bytes, *, key: bytes) -> Outcome:
        """Put `text` in the place of all that the log holds, unless a newer key was written, by either method.

        A reader sees the old text or the new one, whole; a symbolic link is followed; permissions and owner are kept.
        Where nothing can be renamed over the log, it is overwritten. Raises OSError, and then the log is as it was.
        """
        return self._write(self._replace, text, key)

    def close(self) -> None:
        """Close the journal; it is opened again when needed."""
        self._journal.close()

    def _write(self, put: Callable[[bytes, bytes], Outcome], text: bytes, key: bytes) -> Outcome:
        try:
            self._journal.take(self._decide)
            outcome = Outcome.WRITTEN_BEFORE if key in self._journal.written else put(text, key)
        except OSError as error:
            if error.errno and not error.filename:
                error.filename = str(self.path)
            raise
        finally:
            self._journal.let_go()
        if self._journal.overgrown and self._finished:
            self._trim(self._finished)
        return outcome

    def _trim(self, finished: Finished) -> None:
        try:
            self._journal.trim(finished, self._decide)
        except Exception:
            logger.exception("The journal %s could not be trimmed; it will be tried again", self._journal.path)
        finally:
            self._journal.let_go()

    # Appending.

    def _append(self, text: bytes, key: bytes) -> Outcome:
        log = os.open(self.path, TO_APPEND, NEW_FILE_MODE)
        try:
            status = os.fstat(log)
            if stat.S_ISREG(status.st_mode):
                self._add(log, self._journal.begin(APPEND, key, status, text))
            else:
                _pour(log, text)
        finally:
            os.close(log)
        return Outcome.WRITTEN

    def _add(self, log: int, intent: Intent) -> None:
        written = 0
        try:
            written = os.write(log, intent.text)
            if written < len(intent.text):
                raise OSError(f"{self.path} took only {written} of {len(intent.text)} bytes")
            if self._durable:
                os.fsync(log)
                if not intent.size:
                    sync_folder(self._real_path().parent)
        except OSError:
            stands = not self._take_back(log, written) and written == len(intent.text)
            self._journal.settle(intent, WRITTEN if stands else VOID)
            raise
        self._journal.settle(intent, WRITTEN)

    def _take_back(self, log: int, written: int) -> bool:
        """Cut off what this process has just appended, unless somebody has appended since."""
        end = os.lseek(log, 0, os.SEEK_CUR)
        if not written or os.fstat(log).st_size != end:
            return not written
        os.ftruncate(log, end - written)
        return True

    # Replacing.

    def _replace(self, text: bytes, key: bytes) -> Outcome:
        if self._is_superseded(key):
            return Outcome.SUPERSEDED
        target = self._real_path()
        try:
            before = target.stat()
        except FileNotFoundError:
            before = None
        if before and not stat.S_ISREG(before.st_mode):
            return self._append(text, key)
        self._replacement.put(target, before, text, key)
        return Outcome.WRITTEN

    def _is_superseded(self, key: bytes) -> bool:
        newest = self._journal.newest
        if not made_at(key) or key >= newest:
            return False
        if made_at(newest) > time.time_ns() // 1_000_000:
            self._journal.forget_newest()  # the clock was set back: no telling which one is newer
            return False
        return True

    def _real_path(self) -> Path:
        return self.path.resolve() if self.path.is_symlink() else self.path

    # What became of an interrupted write.

    def _decide(self, intent: Intent) -> bytes:
        if intent.kind == APPEND:
            stands = stands_appended(intent, self._real_path(), since=self._journal.touched, durable=self._durable)
        else:
            stands = self._replacement.stands(intent)
        return WRITTEN if stands else VOID


def _pour(log: int, text: bytes) -> None:
    """Write to what is no regular file: it can't be looked at afterwards, so this is done at least once."""
    if (written := os.write(log, text)) < len(text):
        raise OSError(f"It took only {written} of {len(text)} bytes")
