"""Replace the log's whole text: rename a new file over the log, or overwrite it where a rename is impossible."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from notifications.log.disk import NEW_FILE_MODE, read_all, sync_folder, write_all
from notifications.log.interrupted_appends import is_same, places
from notifications.log.journal import Journal
from notifications.log.records import NO_FILE, OVERWRITE, RENAME, VOID, WRITTEN, File, Intent

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
WRITE_OVER = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK
LOOK = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

# The log's folder or file system accepts no new name, or the log itself is a mount point.
CANNOT_RENAME = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV, errno.ENAMETOOLONG}


class Replacement:
    """Replaces a log's text. The caller holds the journal's lock."""

    def __init__(self, journal: Journal, *, durable: bool) -> None:
        self._journal = journal
        self._durable = durable

    def put(self, target: Path, before: os.stat_result | None, text: bytes, *, database: bytes, identity: bytes) -> None:
        """Replace the text of `target`: a regular file, not a symbolic link, or a missing file (`before` is None).

        When this raises OSError, the log is as it was.
        """
        try:
            self._rename_over(target, before, text, database, identity)
        except OSError as error:
            if not before or error.errno not in CANNOT_RENAME:
                raise
            self._overwrite(target, before, text, database, identity)

    def stands(self, intent: Intent, target: Path, *, since: int) -> bool:
        """Whether an interrupted replacement has happened. An interrupted overwriting is repeated, and has happened then.

        `since`: when the intent was noted (in ns, by the file system's clock).
        """
        if intent.kind == OVERWRITE:
            try:
                return self._write_over(target, intent)
            except OSError:
                return False
        temporary = _temporary(target)
        is_there = False
        with suppress(OSError):
            is_there = intent.file == NO_FILE or is_same(temporary.stat(), intent.file)
        if is_there or intent.file == NO_FILE:
            with suppress(OSError):  # it may be another user's file; its name alone proves that it was not renamed
                temporary.unlink()
            return False
        # The inode alone proves nothing: the file system gives its number to the next new file.
        return any(_begins_with(path, intent.text) for path in places(intent.file, target, since=since))

    def _rename_over(self, target: Path, before: os.stat_result | None, text: bytes, database: bytes, identity: bytes) -> None:
        temporary = _temporary(target)
        intent = self._journal.begin(RENAME, database, identity, NO_FILE, text)
        try:
            intent = self._journal.name_file(intent, self._complete_file(temporary, before, text))
            os.rename(temporary, target)
            if self._durable:
                sync_folder(target.parent)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            self._journal.withdraw(intent)  # not settled: a half-overwritten record would hide the records after it
            raise
        self._journal.settle(intent, WRITTEN)

    def _complete_file(self, path: Path, before: os.stat_result | None, text: bytes) -> File:
        """Make the file that will become the log."""
        with suppress(FileNotFoundError):
            path.unlink()
        file = os.open(path, CREATE, 0o600 if before else NEW_FILE_MODE)
        try:
            write_all(file, text, 0)
            if before:
                os.fchown(file, before.st_uid, before.st_gid)
                os.fchmod(file, stat.S_IMODE(before.st_mode))
            if self._durable:
                os.fsync(file)
            made = os.fstat(file)
        finally:
            os.close(file)
        if self._durable:
            sync_folder(path.parent)
        return made.st_dev, made.st_ino, made.st_size

    def _overwrite(self, target: Path, before: os.stat_result, text: bytes, database: bytes, identity: bytes) -> None:
        seen = before.st_dev, before.st_ino, before.st_size
        intent = self._journal.begin(OVERWRITE, database, identity, seen, text)
        try:
            if not self._write_over(target, intent):
                raise OSError(errno.ESTALE, "Another file has taken its place", str(target))
        except OSError:
            self._journal.settle(intent, VOID)
            raise
        self._journal.settle(intent, WRITTEN)

    def _write_over(self, target: Path, intent: Intent) -> bool:
        """Overwrite the log's text in place. Return False, and write nothing, when this is not the intent's file.

        After a kill, the next writer repeats this. When the disk is full, it raises OSError and leaves the log as it was.
        """
        text, (_, _, size) = intent.text, intent.file
        log = os.open(target, WRITE_OVER)
        try:
            if not is_same(os.fstat(log), intent.file):
                return False
            try:
                write_all(log, text[size:], size)  # first the part that needs room on the disk, because it can be taken back
            except OSError:
                os.ftruncate(log, size)
                raise
            write_all(log, text[:size], 0)
            os.ftruncate(log, len(text))
            if self._durable:
                os.fsync(log)
        finally:
            os.close(log)
        return True


def _begins_with(path: Path, text: bytes) -> bool:
    try:
        log = os.open(path, LOOK)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(log).st_mode) and read_all(log, len(text), 0) == text
    except OSError:
        return False
    finally:
        os.close(log)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.notifier")
