"""Put a text in the place of all that the log holds: by a rename, or, where that can't be, over the old text."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from notifications.disk import NEW_FILE_MODE, sync_folder, write_all
from notifications.interrupted import is_same
from notifications.journal import Journal
from notifications.journal_records import IN_PLACE, OPEN, READY, REPLACE, VOID, WRITTEN, Intent

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
OVERWRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK

# A folder or file system that takes no new name beside the log, or a log that is a mount point of its own.
CANNOT_RENAME = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV, errno.ENAMETOOLONG}


class Replacement:
    """Replaces a log's text, under the journal's lock, which the caller holds."""

    def __init__(self, journal: Journal, *, durable: bool) -> None:
        self._journal = journal
        self._durable = durable

    def put(self, target: Path, before: os.stat_result | None, text: bytes, key: bytes) -> None:
        """Replace the text of `target`, which is no symbolic link, and a regular file or nothing (`before` is None).

        Raises OSError, and then the log is as it was.
        """
        intent = self._journal.begin(REPLACE, key, before, os.fsencode(target) + b"\0" + text)
        try:
            self._put_in_place(target, before, intent)
        except OSError:
            self._discard(intent)
            raise
        self._journal.settle(intent, WRITTEN)

    def stands(self, intent: Intent) -> bool:
        """Whether an interrupted replacement has happened; if it was overwriting the log, it is done over."""
        if intent.state == IN_PLACE:
            try:
                return self._overwrite(intent)
            except OSError:
                return False
        if intent.state == READY and not _temporary(_target_and_text(intent)[0]).exists():
            return True
        self._discard(intent)
        return False

    def _put_in_place(self, target: Path, before: os.stat_result | None, intent: Intent) -> None:
        try:
            self._rename_over(target, before, intent)
        except OSError as error:
            if not before or error.errno not in CANNOT_RENAME or not self._overwrite(intent):
                raise

    def _rename_over(self, target: Path, before: os.stat_result | None, intent: Intent) -> None:
        temporary = _temporary(target)
        with suppress(FileNotFoundError):
            temporary.unlink()
        file = os.open(temporary, CREATE, 0o600 if before else NEW_FILE_MODE)
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
            if not is_same(os.fstat(log), intent):
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


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.notifier")


def _target_and_text(intent: Intent) -> tuple[Path, bytes]:
    target, _, text = intent.text.partition(b"\0")
    return Path(os.fsdecode(target)), text
