"""The journal beside a log: what has been written to it, and what somebody was about to write. Knows no Django.

A file of records, and its own lock: nobody reads or writes it without. A record is an intent, put down before the log is
touched; one byte of it then says what became of it. Whoever takes the lock and finds an intent open knows that its
writer is gone, and decides it before anything else. So nobody ever remembers an open intent, and a byte is enough.
"""

import fcntl
import itertools
import os
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from notifications.disk import read_all, sync_folder, write_all
from notifications.journal_records import (
    KEPT,
    KEY,
    NEWEST,
    NO_FILE,
    NO_KEY,
    RECORD,
    VOID,
    WRITTEN,
    Intent,
    made_at,
    packed,
    packed_settled,
    parse,
)

FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
TRIM_FROM = 1 << 20  # bytes that are added before the journal is trimmed
YIELDS = 50  # tries to get the lock that only let others run in between: a holder is done within some 10 µs
PAUSES = (0.00005, 0.001)  # then, shortest and longest pause (seconds) between two tries
PATIENCE = 8.0  # seconds to wait for the lock; a holder that is stopped is killed by its supervisor after 5


# Looks at the log, under the lock, and says what became of an open intent: WRITTEN or VOID.
Decide = Callable[[Intent], bytes]

# Of task ids (16 bytes), those of tasks that can't come back.
Finished = Callable[[Collection[bytes]], Collection[bytes]]


class Journal:
    """One log's journal, as this process knows it."""

    def __init__(self, path: Path, *, durable: bool = False, patience: float = PATIENCE) -> None:
        """`durable`: an intent is on the disk before the log is touched. `patience`: seconds to wait for the lock."""
        self.path = path
        self.written: set[bytes] = set()
        self.newest = NO_KEY  # the greatest key that was written, of those that tell when they were made
        self.overgrown = False  # somebody has to trim it, and it is us
        self._durable = durable
        self._patience = patience
        self._fd = -1
        self._end = 0  # up to here it has been read; all intents before are decided
        self._base = 0  # what the last trimming left
        _journals.add(self)

    def __del__(self) -> None:
        self.close()

    # The lock.

    def take(self, decide: Decide) -> None:
        """Take the lock, learn what others have written, and have decided what somebody left open.

        Raises TimeoutError and OSError, and may hold the lock then: call `let_go` in a `finally` that covers this call.
        """
        while True:
            if self._fd < 0:
                self._open()
            self._lock()
            status = os.fstat(self._fd)
            if status.st_nlink:
                break
            self.close()  # it was trimmed, and another file has its name
        if status.st_size != self._end:
            self._read(status.st_size, decide)

    def let_go(self) -> None:
        """Release the lock, if it is held."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which releases the lock, and forget what was read."""
        fd, self._fd = self._fd, -1
        self.written, self.newest, self._end, self._base = set(), NO_KEY, 0, 0
        if fd >= 0:
            os.close(fd)

    def _open(self) -> None:
        try:
            self._fd = os.open(self.path, FLAGS, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self.path, FLAGS, 0o600)
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

    # Under the lock.

    def begin(self, kind: bytes, key: bytes, log: os.stat_result | None, text: bytes) -> Intent:
        """Note what is about to be written, and to which file. Raises OSError, and then it counts as not noted."""
        seen = (log.st_dev, log.st_ino, log.st_size) if log else NO_FILE
        record = packed(kind, key, seen, text)
        try:
            write_all(self._fd, record, self._end)
            self.sync()
        except OSError as error:
            error.filename = str(self.path)
            raise
        return Intent(self._end, kind, key, *seen, text)

    def note(self, intent: Intent, state: bytes) -> None:
        """Note how far an intent has come. One byte that is there already: it needs no room, and can't be torn."""
        os.pwrite(self._fd, state, intent.position)
        intent.state = state

    def settle(self, intent: Intent, state: bytes) -> None:
        """Note what became of an intent: WRITTEN or VOID."""
        self.note(intent, state)
        self._learn(intent)
        # One process crosses the line. Twice what was kept, so that the cost for each write stays the same.
        step = TRIM_FROM + 2 * self._base
        self.overgrown |= (self._end - self._base) // step > (intent.position - self._base) // step

    def forget_newest(self) -> None:
        """From here on, any key may count as the newest."""
        mark = packed_settled(NEWEST, NO_KEY, b"")
        write_all(self._fd, mark, self._end)
        self.newest, self._end = NO_KEY, self._end + len(mark)

    def sync(self) -> None:
        """Where a power cut must not matter: have on the disk what was noted."""
        if self._durable:
            os.fsync(self._fd)

    @property
    def touched(self) -> int:
        """When (in ns, by the file system's clock) a record was last written: so, when an open intent was."""
        return os.fstat(self._fd).st_mtime_ns

    def trim(self, finished: Finished, decide: Decide) -> None:
        """Drop the keys of tasks that can't come back.

        To be called without the lock: `finished` may take its time. Raises what it raises, and as `take`.
        """
        self.overgrown = False
        ended = set(finished({key[:16] for key in self.written}))
        self.take(decide)
        kept = b"".join(key for key in self.written if key[:16] not in ended)
        self._rewrite(packed_settled(NEWEST, self.newest, b"") + packed_settled(KEPT, NO_KEY, kept))

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
            self._end = self._base = 0  # somebody has cut it
        start, buffer = self._end, read_all(self._fd, size - self._end, self._end)
        while self._end < size:
            intent = parse(buffer, self._end - start)
            if not intent:
                os.ftruncate(self._fd, self._end)  # its writer was killed, or the disk full: it had not touched the log
                return
            intent.position += start
            if intent.state in (WRITTEN, VOID):
                self._learn(intent)
            else:
                self.settle(intent, decide(intent))

    def _learn(self, record: Intent) -> None:
        """Take in a record that is decided. Interrupted anywhere, it can be done over."""
        end = record.position + RECORD.size + len(record.text)
        if record.state == WRITTEN:
            if record.kind == NEWEST:
                self.newest = record.key
            elif record.kind == KEPT:
                self.written.update(record.text[at : at + KEY] for at in range(0, len(record.text), KEY))
                self._base = end
            else:
                self.written.add(record.key)
                if record.key > self.newest and made_at(record.key):
                    self.newest = record.key
        self._end = end


def _pauses() -> Iterator[float]:
    """The seconds to wait between one try and the next, without end."""
    yield from itertools.repeat(0.0, YIELDS)
    pause, longest = PAUSES
    while True:
        yield pause
        pause = min(2 * pause, longest)


_journals: "weakref.WeakSet[Journal]" = weakref.WeakSet()


def _start_afresh() -> None:
    """In a forked child: an inherited file would share the parent's lock."""
    for journal in tuple(_journals):
        journal.close()


os.register_at_fork(after_in_child=_start_afresh)
