"""The journal of a data folder: the writes that its tasks have made to the log, and those that were about to happen.

It is a file of records, and its own lock: a process reads or writes it only under that lock. A record is an intent, noted
before the log is touched. Later one byte of it says what became of it. A process that takes the lock and finds an open
intent knows that its writer is gone, and decides the intent first. No process ever remembers an open intent; therefore one
byte is enough.
"""

import fcntl
import itertools
import os
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from logging import getLogger
from pathlib import Path

from notifications.log.disk import read_all, sync_folder, write_all
from notifications.log.identity import FRESH, IDENTITY, TASK, Identity, tells_time
from notifications.log.records import (
    HEADER,
    INTENTS,
    KEPT,
    NEWEST,
    NO_FILE,
    NO_TASK,
    OPEN,
    PLACE,
    PLACES,
    RECORD,
    WRITTEN,
    File,
    Intent,
    header,
    is_cut_short,
    newest,
    packed,
    packed_settled,
    parse,
    read_header,
)

logger = getLogger(__name__)

FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
TRIM_FROM = 1 << 20  # bytes that are added before the journal is trimmed
YIELDS = 50  # tries to get the lock that only let others run in between: a holder is done within some 10 µs
PAUSES = (0.00005, 0.001)  # then, shortest and longest pause (seconds) between two tries
PATIENCE = 8.0  # seconds to wait for the lock; a holder that is stopped is killed by its supervisor after 5


# Looks at the log, under the lock, and says what became of an open intent: WRITTEN or VOID.
Decide = Callable[[Intent], bytes]

# The records, besides the header, that a new journal begins with.
Inherit = Callable[[], bytes]


class Journal:
    """The journal as this process knows it. Its threads share one object, so that each record is read once."""

    def __init__(self, path: Path, *, durable: bool = False, patience: float = PATIENCE) -> None:
        """`durable`: an intent is on the disk before the log is touched. `patience`: seconds to wait for the lock."""
        self.path = path
        self.trims = -1  # how often it has been trimmed, as far as we know
        self.learned = 0.0  # when (monotonic) this process learned that number
        self.databases: dict[bytes, int] = {}  # of each database, the last trim that dropped identities of its tasks
        self.written: dict[bytes, set[bytes]] = {}  # identities, by the database that their task is in
        self.places: dict[bytes, set[bytes]] = {}  # the same, of version 0.1
        self.newest = NO_TASK  # the newest task that has written, of those whose id tells when they were queued
        self.overgrown = False  # somebody has to trim it, and it is us
        self._durable = durable
        self._patience = patience
        self._threads = threading.RLock()
        self._name = os.fspath(path)
        self._fd = -1
        self._file = (0, 0)  # its device and inode
        self._forget()
        _journals.add(self)

    def __del__(self) -> None:
        self.close()

    # The lock.

    def take(self, decide: Decide, inherit: Inherit = bytes) -> None:
        """Take the lock, learn what others have written, and have decided what somebody left open.

        Raises TimeoutError and OSError, and may hold the lock then: call `let_go` in a `finally` that covers this call.
        """
        # A lock between threads first: flock(2) belongs to the open file, which they share.
        if not self._threads.acquire(blocking=False) and not self._threads.acquire(timeout=self._patience):
            raise TimeoutError(f"{self.path} was locked by another thread for {self._patience:g} s")
        while True:
            if not self._is_open():
                self._open()
            self._lock()
            size = self._size_in_place()
            if size is None:
                self.close()  # it was trimmed, or deleted: another file has its name, or none
                continue
            if size != self._end:
                self._read(size, decide)
            if self._end:
                return
            self._rewrite(header(0, {}) + inherit())

    def let_go(self) -> None:
        """Release the lock, if this thread holds it."""
        while self._threads._is_owned():  # type: ignore[attr-defined]  # more than once, if an exception kept us from it
            try:
                if self._fd >= 0:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
            finally:
                self._threads.release()

    def close(self) -> None:
        """Close the file, which releases its lock, and forget what was read."""
        fd, self._fd = self._fd, -1
        self._forget()
        if fd >= 0:
            os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: an inherited file would share the parent's lock, and a thread that held ours is not here."""
        self._threads = threading.RLock()
        self.close()

    def _forget(self) -> None:
        self.databases, self.newest = {}, NO_TASK
        self.written, self.places = defaultdict(set), defaultdict(set)
        self._end = 0  # up to here it has been read; all intents before are decided
        self._base = 0  # what the last trim left

    def _is_open(self) -> bool:
        """Whether our descriptor is still the journal's: a task may have closed it, and another file have its number by now."""
        if self._fd >= 0:
            try:
                ours = os.fstat(self._fd)
            except OSError:
                pass
            else:
                if (ours.st_dev, ours.st_ino) == self._file:
                    return True
            self._fd = -1  # not to be closed: it isn't ours any more
            self._forget()
        return False

    def _open(self) -> None:
        try:
            self._fd = os.open(self.path, FLAGS, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self.path, FLAGS, 0o600)
        status = os.fstat(self._fd)
        self._file = (status.st_dev, status.st_ino)
        if self._durable:
            sync_folder(self.path.parent)
            sync_folder(self.path.parent.parent)

    def _lock(self) -> None:
        """Wait for the lock, but not for ever: flock(2) has no limit of its own."""
        if self._is_locked_now():
            return
        deadline = time.monotonic() + self._patience
        for pause in _pauses():
            if pause:
                time.sleep(pause)
            else:
                os.sched_yield()
            if self._is_locked_now():
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.path} was locked by another process for {self._patience:g} s")

    def _is_locked_now(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _size_in_place(self) -> int | None:
        """The journal's size; None when our file is not the one at its path, however many links it has."""
        try:
            there = os.stat(self._name)
        except FileNotFoundError:
            return None
        return there.st_size if (there.st_dev, there.st_ino) == self._file else None

    # Under the lock.

    def has(self, identity: Identity, name: bytes) -> bool:
        """Whether the write of this identity, whose name this is, stands in the log."""
        for written in self.written.values():
            if name in written:
                return True
        # What version 0.1 has left goes by places; mostly, there is nothing.
        return bool(self.places) and self._has_place(identity)

    def _has_place(self, identity: Identity) -> bool:
        if identity.place is None or identity.place[0] < 0:
            return False
        place = PLACE.pack(identity.task, *identity.place)
        return any(place in places for places in self.places.values())

    def begin(self, kind: bytes, database: bytes, identity: bytes, file: File, text: bytes) -> Intent:
        """Note what is about to be written, and to which file. Raises OSError, and then it counts as not noted.

        The file of a RENAME may still have to be made (NO_FILE); then `name_file` has to follow.
        """
        self._note(self._end, packed(kind, database, identity, file, text), is_named=file != NO_FILE)
        return Intent(self._end, OPEN, kind, database, identity, file, text)

    def name_file(self, intent: Intent, file: File) -> Intent:
        """Note which file an intent is about. Raises OSError, and then it counts as not noted."""
        record = packed(intent.kind, intent.database, intent.identity, file, intent.text)
        self._note(intent.position, record, is_named=True)
        return intent._replace(file=file)

    def _note(self, position: int, record: bytes, *, is_named: bool) -> None:
        try:
            write_all(self._fd, record, position)
            if self._durable and is_named:
                os.fsync(self._fd)
        except OSError as error:
            error.filename = str(self.path)
            raise

    def settle(self, intent: Intent, state: bytes) -> None:
        """Note what became of an intent, WRITTEN or VOID. One byte that is there already: it needs no room."""
        os.pwrite(self._fd, state, intent.position)
        self._learn(intent, state)
        if self._end - self._base >= TRIM_FROM:
            # One process crosses the line. Twice what was kept, so that the cost for each write stays the same.
            step = TRIM_FROM + 2 * self._base
            self.overgrown |= (self._end - self._base) // step > (intent.position - self._base) // step

    def withdraw(self, intent: Intent) -> None:
        """Take back the intent that was noted last: nothing came of it, and nobody has read it."""
        os.ftruncate(self._fd, intent.position)

    def forget_newest(self) -> None:
        """From here on, any task may count as the newest."""
        mark = newest(NO_TASK)
        write_all(self._fd, mark, self._end)
        self.newest, self._end = NO_TASK, self._end + len(mark)

    @property
    def touched(self) -> int:
        """When (in ns, by the file system's clock) a record was last written: so, when an open intent was."""
        return os.fstat(self._fd).st_mtime_ns

    # Trimming.

    def tasks_of(self, database: bytes) -> set[bytes]:
        """The ids of the database's tasks that something is remembered of. Waits for other threads."""
        with self._threads:
            known = itertools.chain(self.written.get(database, ()), self.places.get(database, ()))
            return {name[:TASK] for name in known}

    def trim(self, number: int, database: bytes, ended: Collection[bytes], decide: Decide) -> None:
        """Drop what is remembered of the database's tasks that have ended. `number`: of this trim.

        Does nothing when the journal has been trimmed as often already. To be called without the lock; raises as `take`,
        and as there, `let_go` has to follow.
        """
        self.take(decide)
        if number <= self.trims:
            return
        kept = []
        for kind, known in ((KEPT, self.written), (PLACES, self.places)):
            for of, names in known.items():
                text = b"".join(name for name in names if of != database or name[:TASK] not in ended)
                if text:
                    kept.append(packed_settled(kind, text, database=of))
        self._rewrite(b"".join((header(number, {**self.databases, database: number}), newest(self.newest), *kept)))

    def _rewrite(self, records: bytes) -> None:
        """Put another file in the journal's place. The lock goes with the old one."""
        temporary = self.path.with_name(f"{self.path.name}.new")
        fd = os.open(temporary, FLAGS | os.O_TRUNC, 0o600)
        try:
            write_all(fd, records, 0)
            if self._durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, self.path)
        if self._durable:
            sync_folder(self.path.parent)
        self.close()

    # Reading.

    def _read(self, size: int, decide: Decide) -> None:
        """Learn what was added up to `size`; decide what is open, and cut off what is torn."""
        if size < self._end:
            self._forget()  # somebody has cut it
        start, buffer = self._end, read_all(self._fd, size - self._end, self._end)
        while self._end < size:
            record = parse(buffer, start, self._end)
            if not record or (self._end == 0 and record.kind != HEADER):
                os.ftruncate(self._fd, self._end)  # its writer was killed, or the disk full: it had not touched the log
                if not is_cut_short(buffer, start, self._end):
                    logger.warning("The journal %s was damaged, and cut at byte %d of %d", self.path, self._end, size)
                return
            if record.state == OPEN:
                self.settle(record, decide(record))
            else:
                self._learn(record, record.state)

    def _learn(self, record: Intent, state: bytes) -> None:
        """Take in a record that is decided. Interrupted anywhere, it can be done over."""
        if state == WRITTEN:
            if record.kind in INTENTS:
                self._learn_write(record.database, record.identity)
            else:
                self._learn_more(record)
        self._end = record.position + RECORD.size + len(record.text)

    def _learn_write(self, database: bytes, identity: bytes) -> None:
        task, mark = identity[:TASK], identity[TASK:]
        if mark != FRESH:
            self.written[database].add(identity)
        if task > self.newest and tells_time(task):
            self.newest = task

    def _learn_more(self, record: Intent) -> None:
        if record.kind == HEADER:
            trims, self.databases = read_header(record.text)
            if trims != self.trims:
                self.trims, self.learned = trims, time.monotonic()
        elif record.kind == NEWEST:
            self.newest = record.identity[:TASK]
        else:
            known, length = (self.written, IDENTITY) if record.kind == KEPT else (self.places, PLACE.size)
            known[record.database].update(_each(record.text, length))
            self._base = record.position + RECORD.size + len(record.text)


def _each(text: bytes, length: int) -> Iterator[bytes]:
    return (text[at : at + length] for at in range(0, len(text), length))


def _pauses() -> Iterator[float]:
    """The seconds to wait between one try and the next, without end."""
    yield from itertools.repeat(0.0, YIELDS)
    pause, longest = PAUSES
    while True:
        yield pause
        pause = min(2 * pause, longest)


_journals: "weakref.WeakSet[Journal]" = weakref.WeakSet()


def _start_afresh() -> None:
    for journal in tuple(_journals):
        journal.after_fork()


os.register_at_fork(after_in_child=_start_afresh)
