"""The journal of a data folder: the writes that its tasks have made to the log, and those that were about to happen.

The journal is a file of records and its own lock (`locked_file.py`): a process reads or writes it only under that lock.
Before a process touches the log, it notes an intent. Afterwards it overwrites one byte of that record to say what became
of the intent. A process that takes the lock and finds an open intent knows that the writer is gone, and decides the
intent before anything else. One byte is enough because no process ever remembers an open intent.
"""

import os
import time
from collections.abc import Callable, Collection
from logging import getLogger
from pathlib import Path

from notifications.log.disk import read_all, write_all
from notifications.log.identity import made_at
from notifications.log.known_writes import KnownWrites
from notifications.log.locked_file import LOCK_WAIT_SECONDS, LockedFile
from notifications.log.records import (
    HEADER,
    INTENTS,
    KEPT,
    NO_FILE,
    NO_TASK,
    OPEN,
    PLACES,
    RECORD,
    WRITTEN,
    File,
    Intent,
    header,
    is_cut_short,
    newest,
    packed,
    parse,
)

logger = getLogger(__name__)

TRIM_FROM = 1 << 20  # the journal is trimmed when it has grown by this many bytes

# Looks at the log, under the lock, and says what became of an open intent: WRITTEN or VOID.
Decide = Callable[[Intent], bytes]

# Returns the records with which a new journal begins, after its header.
Inherit = Callable[[], bytes]


class Journal(LockedFile):
    """The journal as this process knows it. The threads of a process share one object, so that each record is read once."""

    def __init__(self, path: Path, *, durable: bool = False, lock_wait: float = LOCK_WAIT_SECONDS) -> None:
        """`durable`: an intent is on the disk before the log is touched. `lock_wait`: seconds to wait for the lock."""
        super().__init__(path, durable=durable, lock_wait=lock_wait)
        self.known = KnownWrites()
        self.overgrown = False  # this process is the one that has to trim it
        self._forget()

    def take(self, decide: Decide, inherit: Inherit = bytes) -> None:
        """Take the lock, read what other processes have written, and decide open intents.

        Raises TimeoutError and OSError, and may hold the lock then: call `let_go` in a `finally` that covers this call.
        """
        while True:
            size = self.lock()
            if self.openings != self._opening:
                self._forget()
            if size != self._end:
                self._read(size, decide)
            if self._end:
                return
            self.replace_with(header(0, {}) + inherit())

    def _forget(self) -> None:
        self._opening = -1  # if an exception stops this halfway, the next `take` repeats it
        self.known.forget()
        self._end = 0  # this process has read up to here; all intents before are decided
        self._base = 0  # the end of the records that the last trim kept
        self._opening = self.openings  # the opening of the file since which this was read

    # Under the lock.

    def begin(self, kind: bytes, database: bytes, identity: bytes, file: File, text: bytes) -> Intent:
        """Note a write before it happens, and the file it goes to. When this raises OSError, the intent counts as not noted.

        For a RENAME whose file does not exist yet, pass NO_FILE, and call `name_file` later.
        """
        self._note(self._end, packed(kind, database, identity, file, text), is_named=file != NO_FILE)
        return Intent(self._end, OPEN, kind, database, identity, file, text)

    def name_file(self, intent: Intent, file: File) -> Intent:
        """Add the file to an intent that was noted without one. When this raises OSError, the file counts as not noted."""
        record = packed(intent.kind, intent.database, intent.identity, file, intent.text)
        self._note(intent.position, record, is_named=True)
        return intent._replace(file=file)

    def _note(self, position: int, record: bytes, *, is_named: bool) -> None:
        try:
            write_all(self.fd, record, position)
            if self._durable and is_named:
                os.fsync(self.fd)
        except OSError as error:
            error.filename = str(self.path)
            raise

    def settle(self, intent: Intent, state: bytes) -> None:
        """Note what became of an intent, WRITTEN or VOID. It overwrites one byte, which needs no room on the disk."""
        os.pwrite(self.fd, state, intent.position)
        self._learn(intent, state)
        if self._end - self._base >= TRIM_FROM:
            # Exactly one process crosses each step. A step grows with what was kept, so that a write always costs the same.
            step = TRIM_FROM + 2 * self._base
            self.overgrown |= (self._end - self._base) // step > (intent.position - self._base) // step

    def withdraw(self, intent: Intent) -> None:
        """Remove the intent that was noted last. Nothing came of it, and no other process has read it."""
        os.ftruncate(self.fd, intent.position)

    def is_superseded(self, task: bytes) -> bool:
        """Whether a newer task than this one has written to the log."""
        last = self.known.newest
        if not made_at(task) or task >= last:
            return False
        if made_at(last) > time.time_ns() // 1_000_000:
            self._forget_newest()  # the clock was set back, so the ids don't tell which task is newer
            return False
        return True

    def _forget_newest(self) -> None:
        """Note that from here on any task may count as the newest one."""
        record = newest(NO_TASK)
        write_all(self.fd, record, self._end)
        self.known.newest, self._end = NO_TASK, self._end + len(record)

    @property
    def touched(self) -> int:
        """When the last record was written (in ns, by the file system's clock). An open intent is always the last record."""
        return os.fstat(self.fd).st_mtime_ns

    # Reading.

    def _read(self, size: int, decide: Decide) -> None:
        """Read the records up to `size`. Decide open intents, and cut off a torn record."""
        if size < self._end:
            self._forget()  # another program has truncated the file
        start, buffer = self._end, read_all(self.fd, size - self._end, self._end)
        while self._end < size:
            record = parse(buffer, start, self._end)
            if not record or (self._end == 0 and record.kind != HEADER):
                # The writer was killed, or the disk was full. It had not touched the log yet.
                os.ftruncate(self.fd, self._end)
                if not is_cut_short(buffer, start, self._end):
                    logger.warning("The journal %s was damaged, and cut at byte %d of %d", self.path, self._end, size)
                return
            if record.state == OPEN:
                self.settle(record, decide(record))
            else:
                self._learn(record, record.state)

    def _learn(self, record: Intent, state: bytes) -> None:
        """Learn from a settled record. After an exception at any point, the record is read again."""
        end = record.position + RECORD.size + len(record.text)
        if state == WRITTEN:
            if record.kind in INTENTS:
                self.known.learn_write(record.database, record.identity)
            else:
                self.known.learn_record(record)
                if record.kind in KEPT + PLACES:
                    self._base = end
        self._end = end

    # Trimming.

    def tasks_of(self, database: bytes) -> set[bytes]:
        """The ids of the database's tasks that have a known write. Waits for other threads."""
        with self.threads:
            return self.known.tasks_of(database)

    def trim(self, number: int, database: bytes, ended: Collection[bytes], decide: Decide) -> None:
        """Drop the identities of the database's tasks that have ended. `number`: the number of this trim.

        Does nothing when the journal already has a trim of this number or a later one. Call it without the lock. It raises
        what `take` raises, and `let_go` must follow as after `take`.
        """
        self.take(decide)
        if number > self.known.trims:
            self.replace_with(self.known.records_without(database, ended, number))
