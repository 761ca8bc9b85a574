"""Write each text once to a log that other programs may read, rotate or delete at any time.

The log's format leaves no room for ids, so the journal (notifications/log/journal.py) records what stands in the log.
docs/exactly-once.md goes through each point at which a writer may be killed.
"""

import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from weakref import WeakSet

from notifications.log import legacy, owner
from notifications.log.disk import NEW_FILE_MODE, sync_folder, write_once
from notifications.log.identity import FRESH, TASK, Identity
from notifications.log.interrupted_appends import stands_appended
from notifications.log.journal import Journal
from notifications.log.locked_file import LOCK_WAIT_SECONDS
from notifications.log.protocols import Attempt, Database, Outcome
from notifications.log.records import APPEND, NO_DATABASE, VOID, WRITTEN, Intent
from notifications.log.replacement import Replacement
from notifications.log.trimming import Trimming

# Each write opens the log again, so that it goes on after the log was renamed, deleted or truncated.
# O_NONBLOCK: a FIFO without a reader is an error at once (ENXIO), and the worker doesn't hang. Regular files ignore it.
TO_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK


class _OfThread(threading.local):
    is_writing = False  # it may stay True when an exception comes between a write's end and the assignment


class LogFile:
    """A log to which any number of processes on one host write, each with any number of threads."""

    def __init__(
        self,
        path: Path,
        *,
        journal_path: Path,
        durable: bool = False,
        database: Database | None = None,
        lock_wait: float = LOCK_WAIT_SECONDS,
    ) -> None:
        """`durable`: what is written survives a power cut as well. Each write costs two or more fsync(2) then.

        `database`: with it, the journal is trimmed. `lock_wait`: seconds to wait for other writers.
        """
        self.path = path
        self._name = os.fspath(path)
        self._journal = Journal(journal_path, durable=durable, lock_wait=lock_wait)
        self._replacement = Replacement(self._journal, durable=durable)
        self._durable = durable
        self._trimming = Trimming(self._journal, database)
        self._hold: owner.Hold | None = None
        self._held = (0, 0)  # device and inode of the log that `_hold` was last taken for
        self._own = _OfThread()
        _log_files.add(self)

    def append(self, text: bytes, *, identity: Identity, attempt: Attempt | None = None) -> Outcome:
        """Append `text` in one write(2), once for each identity.

        Raises OSError (including TimeoutError and OwnedError), AttemptLostError, what the database raises, and RuntimeError
        in the middle of another write of the same thread. After any of these, nothing of the text stands in the log.
        """
        return self._write(self._append, text, identity, attempt)

    def replace(self, text: bytes, *, identity: Identity, attempt: Attempt | None = None) -> Outcome:
        """Replace the log's whole text with `text`, unless a newer task has written, by either method.

        A reader sees either the old text or the new one. Symbolic links are followed; permissions and owner are kept.
        A log over which nothing can be renamed is overwritten. Raises what `append` raises, and then leaves the log as
        it was.
        """
        return self._write(self._replace, text, identity, attempt)

    def open(self) -> None:
        """Get ready to write: read the journal, and hold the log for this data folder. Raises what `append` raises."""
        self._trimming.name_database()
        try:
            self._journal.take(self._decide, self._old_records)
            target = self._real_path()
            if owner.may_be_owned(target):
                self._make_ours(target)
        finally:
            self._journal.let_go()

    def forgotten_trim(self) -> int:
        """Return the number of a trim that the database, restored from an older copy, has forgotten; 0 if there is none.

        Call `open` before. Each trim is returned once.
        """
        return self._trimming.forgotten_trim()

    def after_fork(self) -> None:
        """In a forked child: it holds nothing of what its parent holds."""
        self._hold, self._held = None, (0, 0)

    def close(self) -> None:
        """Close the journal and let go of the log. The next write opens both again."""
        self._journal.close()
        self.after_fork()

    def _write(
        self, put: Callable[[bytes, bytes], Outcome], text: bytes, identity: Identity, attempt: Attempt | None
    ) -> Outcome:
        if self._own.is_writing and _is_called_by(LogFile._write_alone):
            raise RuntimeError(
                f"A signal handler, a logging handler or a destructor tried to write to {self.path} in the middle of "
                "another write of the same thread. Store the text there, and write it later."
            )
        try:
            self._own.is_writing = True
            return self._write_alone(put, text, identity, attempt)
        finally:
            self._own.is_writing = False

    def _write_alone(
        self, put: Callable[[bytes, bytes], Outcome], text: bytes, identity: Identity, attempt: Attempt | None
    ) -> Outcome:
        name = identity.task + identity.mark
        is_fresh = identity.mark == FRESH
        if self._trimming.database_id == NO_DATABASE and not is_fresh:
            self._trimming.name_database()
        try:
            self._journal.take(self._decide, self._old_records)
            if attempt and attempt.claimed <= self._journal.known.learned:
                self._trimming.vouch(attempt)
            is_known = not is_fresh and self._journal.known.has(identity, name)
            outcome = Outcome.WRITTEN_BEFORE if is_known else put(text, name)
        except OSError as error:
            if error.errno and not error.filename:
                error.filename = str(self.path)
            raise
        finally:
            self._journal.let_go()
        if self._journal.overgrown:
            self._trimming.trim(self._decide)
        return outcome

    def _old_records(self) -> bytes:
        known = legacy.read_old_journals(self._journal.path.parent, self._real_path())
        if known.identities or known.places:
            self._trimming.name_database()
        return known.records(self._trimming.database_id)

    # The log's owner.

    def _make_ours(self, target: Path) -> None:
        if self._hold is None:
            self._hold = owner.Hold(owner.owner_of(self._journal.path))
        self._hold.take(target)

    # Appending.

    def _append(self, text: bytes, identity: bytes) -> Outcome:
        log = os.open(self._name, TO_APPEND, NEW_FILE_MODE)
        try:
            status = os.fstat(log)
            if stat.S_ISREG(status.st_mode):
                if self._held != (status.st_dev, status.st_ino):
                    self._make_ours(self._real_path())
                    self._held = (status.st_dev, status.st_ino)
                seen = (status.st_dev, status.st_ino, status.st_size)
                self._add(log, self._journal.begin(APPEND, self._trimming.database_id, identity, seen, text))
            else:
                write_once(log, text)
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
                if not intent.file[2]:
                    sync_folder(self._real_path().parent)
        except OSError:
            self._take_back(log, written)
            # Decided by the log's bytes: a signal handler may have raised the error before `written` was assigned.
            self._journal.settle(intent, self._decide(intent))
            raise
        self._journal.settle(intent, WRITTEN)

    def _take_back(self, log: int, written: int) -> None:
        """Cut off what this process has just appended, unless another program has appended since."""
        end = os.lseek(log, 0, os.SEEK_CUR)
        if written and os.fstat(log).st_size == end:
            os.ftruncate(log, end - written)

    # Replacing.

    def _replace(self, text: bytes, identity: bytes) -> Outcome:
        if self._journal.is_superseded(identity[:TASK]):
            return Outcome.SUPERSEDED
        target = self._real_path()
        try:
            before = target.stat()
        except FileNotFoundError:
            before = None
        if before and not stat.S_ISREG(before.st_mode):
            return self._append(text, identity)
        self._make_ours(target)
        self._replacement.put(target, before, text, database=self._trimming.database_id, identity=identity)
        return Outcome.WRITTEN

    def _real_path(self) -> Path:
        return self.path.resolve()

    # Interrupted writes.

    def _decide(self, intent: Intent) -> bytes:
        target, since = self._real_path(), self._journal.touched
        if intent.kind == APPEND:
            stands = stands_appended(intent, target, since=since, durable=self._durable)
        else:
            stands = self._replacement.stands(intent, target, since=since)
        return WRITTEN if stands else VOID


def _is_called_by(function: Callable[..., object]) -> bool:
    """Whether the calling thread is inside a call of this function."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


_log_files: "WeakSet[LogFile]" = WeakSet()


def _after_fork() -> None:
    for log_file in tuple(_log_files):
        log_file.after_fork()


os.register_at_fork(after_in_child=_after_fork)
