"""Write to a log that others may read, rotate or delete at any time, and each thing once. Knows no Django.

The log's format leaves no room for ids, so the proof of what stands in it is kept beside it: notifications/journal.py.
docs/exactly-once.md goes through each point at which a writer may be killed.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from logging import getLogger
from pathlib import Path

from notifications import journal
from notifications.journal import (
    IN_PLACE,
    OPEN,
    READY,
    VOID,
    WRITTEN,
    Finished,
    Intent,
    Journal,
    read_all,
    sync_folder,
    write_all,
)

logger = getLogger(__name__)

# Opened anew for each write, so that a log that was renamed, deleted or truncated in between simply goes on.
# O_NONBLOCK: a FIFO without a reader is an error at once (ENXIO), not a worker that hangs; files don't mind it.
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
OVERWRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK
LOOK = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
MODE = 0o666  # less the umask, as for open()

# A folder or file system that takes no new name beside the log, or a log that is a mount point of its own.
CANNOT_RENAME = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV, errno.ENAMETOOLONG}

WINDOW = 1 << 20  # bytes after the noted place in which an interrupted append is looked for: others may append, too


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
        patience: float = journal.PATIENCE,
    ) -> None:
        """`durable`: what is written outlives a power cut as well, at the cost of two or more fsync(2) a write.

        `finished`: of task ids (16 bytes), those that can't come back; with it, the journal is trimmed.
        `patience`: seconds to wait for other writers.
        """
        self.path = path
        self._journal = Journal(journal_path, durable=durable, patience=patience)
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
        log = os.open(self.path, APPEND, MODE)
        try:
            status = os.fstat(log)
            if stat.S_ISREG(status.st_mode):
                self._add(log, self._journal.begin(journal.APPEND, key, status, text))
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
        intent = self._journal.begin(journal.REPLACE, key, before, os.fsencode(target) + b"\0" + text)
        try:
            self._put_in_place(target, before, intent)
        except OSError:
            self._discard(intent)
            raise
        self._journal.settle(intent, WRITTEN)
        return Outcome.WRITTEN

    def _put_in_place(self, target: Path, before: os.stat_result | None, intent: Intent) -> None:
        try:
            self._rename_over(target, before, intent)
        except OSError as error:
            if not before or error.errno not in CANNOT_RENAME or not self._overwrite(intent):
                raise

    def _is_superseded(self, key: bytes) -> bool:
        newest = self._journal.newest
        if not journal.made_at(key) or key >= newest:
            return False
        if journal.made_at(newest) > time.time_ns() // 1_000_000:
            self._journal.forget_newest()  # the clock was set back: no telling which one is newer
            return False
        return True

    def _rename_over(self, target: Path, before: os.stat_result | None, intent: Intent) -> None:
        temporary = _temporary(target)
        with suppress(FileNotFoundError):
            temporary.unlink()
        file = os.open(temporary, CREATE, 0o600 if before else MODE)
        try:
            write_all(file, _target_and_text(intent)[1], 0)
            if before:
                os.fchown(file, before.st_uid, before.st_gid)
                os.fchmod(file, stat.S_IMODE(before.st_mode))
            if self._durable:
                os.fsync(file)
        finally:
            os.close(file)
        if self._durable:
            sync_folder(target.parent)
        self._journal.note(intent, READY)
        self._journal.sync()
        os.rename(temporary, target)
        if self._durable:
            sync_folder(target.parent)

    def _discard(self, intent: Intent) -> None:
        """Give up a replacement that was not renamed into place."""
        self._journal.note(intent, OPEN)  # first: READY and no temporary file would mean that it was renamed
        with suppress(OSError):
            _temporary(_target_and_text(intent)[0]).unlink()
        self._journal.settle(intent, VOID)

    def _overwrite(self, intent: Intent) -> bool:
        """Write over the log's text where it is; return whether this is the log that the intent saw.

        A killed writer's work is done over by the next one. Raises OSError: no room, and then the log is as it was.
        """
        target, text = _target_and_text(intent)
        log = os.open(target, OVERWRITE)
        try:
            if not _is_same(os.fstat(log), intent):
                return False
            self._journal.note(intent, IN_PLACE)
            self._journal.sync()
            with suppress(OSError):
                _temporary(target).unlink()
            try:
                write_all(log, text[intent.size :], intent.size)  # first what may find no room, and can be taken back
            except OSError:
                os.ftruncate(log, intent.size)
                raise
            write_all(log, text[: intent.size], 0)
            os.ftruncate(log, len(text))
            if self._durable:
                os.fsync(log)
        finally:
            os.close(log)
        return True

    def _real_path(self) -> Path:
        return self.path.resolve() if self.path.is_symlink() else self.path

    # What became of an interrupted write.

    def _decide(self, intent: Intent) -> bytes:
        stands = self._was_appended(intent) if intent.kind == journal.APPEND else self._was_replaced(intent)
        return WRITTEN if stands else VOID

    def _was_replaced(self, intent: Intent) -> bool:
        if intent.state == IN_PLACE:
            try:
                return self._overwrite(intent)
            except OSError:
                return False
        if intent.state == READY and not _temporary(_target_and_text(intent)[0]).exists():
            return True
        self._discard(intent)
        return False

    def _was_appended(self, intent: Intent) -> bool:
        """Whether the text stands in the log, or in what rotation made of it. A torn one is cut off."""
        return any(self._stands(path, intent) for path in self._places(intent))

    def _places(self, intent: Intent) -> Iterator[Path]:
        """Where the log may be that the intent saw: at its path, beside it under another name, or in a copy made since."""
        log = self._real_path()
        names: list[str] = []
        with suppress(OSError):  # a folder that may be entered and not read
            names = os.listdir(log.parent)
        for path in [log, *(log.with_name(name) for name in names if name != log.name)]:
            with suppress(OSError):
                status = path.stat()
                is_copy = path != log and path.name.startswith(log.name) and status.st_mtime_ns >= self._journal.touched
                if is_copy or _is_same(status, intent):
                    yield path

    def _stands(self, path: Path, intent: Intent) -> bool:
        try:
            log = os.open(path, LOOK)
        except OSError:
            return False
        try:
            if not stat.S_ISREG(os.fstat(log).st_mode):
                return False
            text = intent.text
            rest = read_all(log, len(text) + WINDOW, intent.size)
            if rest.startswith(text) or (text.endswith(b"\n") and b"\n" + text in rest):
                return True
            if rest and self._is_torn(rest, text) and os.fstat(log).st_size == intent.size + len(rest):
                with suppress(OSError):  # the file may be an append-only one
                    os.ftruncate(log, intent.size)
            return False
        finally:
            os.close(log)

    def _is_torn(self, rest: bytes, text: bytes) -> bool:
        """Whether `rest`, all that follows the noted place, is a part of the text whose writer was stopped."""
        if self._durable and len(rest) <= len(text):
            rest = rest.rstrip(b"\0")  # a power cut may leave the length, and not the bytes
        return len(rest) < len(text) and text.startswith(rest)


def _pour(log: int, text: bytes) -> None:
    """Write to what is no regular file: it can't be looked at afterwards, so this is done at least once."""
    if (written := os.write(log, text)) < len(text):
        raise OSError(f"It took only {written} of {len(text)} bytes")


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.notifier")


def _target_and_text(intent: Intent) -> tuple[Path, bytes]:
    target, _, text = intent.text.partition(b"\0")
    return Path(os.fsdecode(target)), text


def _is_same(status: os.stat_result, intent: Intent) -> bool:
    return (status.st_dev, status.st_ino) == (intent.device, intent.inode)
