"""The owner of a log: a file next to the log names the journal, and each writing process holds a shared lock on that file.

Two journals for one log know nothing of each other's writes, so a retry under one of them could write again what the
other has recorded.
"""

import fcntl
import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path

from notifications.log.disk import write_all
from notifications.log.journal_id import read_id, read_or_make_id

logger = getLogger(__name__)

FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
TAKEOVER_WAIT_SECONDS = 1.0  # for another process of this data folder to finish taking over the log
TAKEOVER_PAUSE_SECONDS = 0.01  # between two tries
OWNER_FILE_LIMIT = 10_000  # bytes of an owner file that are read


class OwnedError(OSError):
    """The log belongs to another data folder, and a process of that folder is writing to it."""


@dataclass(frozen=True)
class Owner:
    """A journal, as the owner file next to the log names it."""

    journal: str  # its id
    folder: str  # the data folder, for people
    inode: int  # of the journal's folder: a copy of a data folder has the same id

    def is_same(self, other: "Owner | None") -> bool:
        """Whether the other is the same journal. Its folder may have been moved, or mounted elsewhere."""
        return other is not None and (self.journal, self.inode) == (other.journal, other.inode)


def owner_path(log: Path) -> Path:
    """The path of the owner file. `log`: the log's path, without symbolic links."""
    return log.with_name(f".{log.name}.owner")


def owner_of(journal: Path) -> Owner:
    """This journal as the owner of a log. Raises OSError."""
    name = read_or_make_id(journal.with_name("id"))
    return Owner(journal=name, folder=str(journal.parent.parent.resolve()), inode=journal.parent.stat().st_ino)


def other_owner(log: Path, journal: Path) -> str | None:
    """The other data folder whose processes are writing to the log now, or None. Changes nothing."""
    me = owner_of(journal) if read_id(journal.with_name("id")) else None
    log = log.resolve()
    if not may_be_owned(log):
        return None
    try:
        file = os.open(owner_path(log), os.O_RDONLY | FLAGS)
    except OSError:
        return None
    try:
        found = _read(file)
        if found is None or found.is_same(me) or _lock(file, fcntl.LOCK_EX):
            return None
        return found.folder
    finally:
        os.close(file)


def may_be_owned(log: Path) -> bool:
    """Whether a log at this path can have an owner: it is a regular file, or does not exist yet."""
    try:
        return stat.S_ISREG(log.stat().st_mode)
    except FileNotFoundError:
        return True


class Hold:
    """This process's hold on the log to which it writes."""

    _file = -1  # of one that a signal handler's exception kept from being made

    def __init__(self, me: Owner) -> None:
        """Hold nothing yet. `me`: the owner for which a log will be held."""
        self.me = me
        self._log: Path | None = None
        self._file = -1
        self._warned = False

    def __del__(self) -> None:
        self.release()

    def take(self, log: Path) -> None:
        """Hold this log (its path without symbolic links) from now on. Raises OwnedError when another journal's writer does.

        When the log's folder accepts no new name, this logs a warning, once, and writes go on without a hold.
        """
        if log == self._log:
            return
        self.release()
        try:
            self._file = self._held(log)
        except OwnedError:
            raise
        except OSError as error:
            if not self._warned:
                logger.warning("The log %s can't be marked as in use by this data folder: %s", log, error)
            self._warned = True
        self._log = log

    def release(self) -> None:
        """Hold nothing any longer."""
        file, self._file, self._log = self._file, -1, None
        if file >= 0:
            os.close(file)

    def _held(self, log: Path) -> int:
        path = owner_path(log)
        deadline = time.monotonic() + TAKEOVER_WAIT_SECONDS
        while True:
            file = _open(path)
            try:
                if _lock(file, fcntl.LOCK_SH):
                    found = _read(file)
                    if self.me.is_same(found):
                        return file
                    if _lock(file, fcntl.LOCK_EX):
                        self._take_over(file, found, log)
                        return file
                else:
                    found = _read(file)
                if time.monotonic() > deadline:
                    raise OwnedError(f"{log} {_in_use(found, self.me)}")
            except BaseException:
                os.close(file)
                raise
            os.close(file)
            time.sleep(TAKEOVER_PAUSE_SECONDS)

    def _take_over(self, file: int, before: Owner | None, log: Path) -> None:
        os.ftruncate(file, 0)
        write_all(file, (json.dumps(asdict(self.me)) + "\n").encode(), 0)
        fcntl.flock(file, fcntl.LOCK_SH)
        if before and before.journal != self.me.journal:
            logger.warning(
                "The log %s belonged to the data folder %s, and belongs to %s from now on. The new folder's journal doesn't "
                "know what stands in the log: a task of the old folder that comes back may repeat its writes.",
                log,
                before.folder,
                self.me.folder,
            )


def _in_use(found: Owner | None, me: Owner) -> str:
    other = found.folder if found else "(unknown)"
    return f"is in use by the data folder {other}, and can't be used by {me.folder} as well: use one data folder for both"


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, 0o644)
    except PermissionError as error:
        try:
            return os.open(path, os.O_RDONLY | FLAGS)  # another user's file: its lock can still be shared
        except FileNotFoundError:
            raise error from None


def _lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: int) -> Owner | None:
    """The owner that the file names; None when the file is empty, or holds something else."""
    with suppress(ValueError, TypeError, RecursionError):
        return Owner(**json.loads(os.pread(file, OWNER_FILE_LIMIT, 0)))
    return None
