"""The journal beside a log: what has been written to it, and what somebody was about to write. Knows no Django.

A file of records, and its own lock: nobody reads or writes it without. A record is an intent, put down before the log is
touched; one byte of it then says what became of it. Whoever takes the lock and finds an intent open knows that its
writer is gone, and decides it before anything else. So nobody ever remembers an open intent, and a byte is enough.
"""

import fcntl
import os
import struct
import time
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

# Kinds of record.
APPEND, REPLACE = b"a", b"r"
NEWEST = b"n"  # from here on, its key counts as the newest that was written
KEPT = b"k"  # the keys that outlived a trimming

# States. Of an append only OPEN, WRITTEN and VOID.
OPEN = b"o"  # nothing is known: its writer is at it, or dead
READY = b"y"  # the replacement's temporary file is complete: its rename is next
IN_PLACE = b"i"  # the log is being overwritten
WRITTEN = b"w"
VOID = b"v"  # not written: the key is free

# State, checksum of all that follows it; kind, key, device, inode, size before, length of the text that comes then.
RECORD = struct.Struct("<cIc24sQQQI")
HEAD = struct.Struct("<cI")
CHECKED = HEAD.size
KEY = 24  # bytes; the first 16 are the task's id
NO_KEY = bytes(KEY)
NO_FILE = (0, 0, 0)  # device, inode, size

FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
TRIM_FROM = 1 << 20  # bytes that are added before the journal is trimmed
PAUSES = (0.00005, 0.001)  # shortest and longest pause (seconds) between two tries to get the lock
PATIENCE = 8.0  # seconds to wait for the lock; a holder that is stopped is killed by its supervisor after 5


@dataclass(slots=True)
class Intent:
    """A write that somebody is about to make."""

    position: int  # in the journal
    kind: bytes
    key: bytes
    device: int
    inode: int
    size: int  # of the log, before
    text: bytes
    state: bytes = OPEN


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
        pause, longest = PAUSES
        deadline = 0.0
        while True:
            try:
                return fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + self._patience
                if now > deadline:
                    raise TimeoutError(f"{self.path} was locked by another process for {self._patience:g} s") from None
            time.sleep(pause)
            pause = min(2 * pause, longest)

    # Under the lock.

    def begin(self, kind: bytes, key: bytes, log: os.stat_result | None, text: bytes) -> Intent:
        """Note what is about to be written, and to which file. Raises OSError, and then it counts as not noted."""
        seen = (log.st_dev, log.st_ino, log.st_size) if log else NO_FILE
        record = _record(kind, key, seen, text)
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
        self.settle(self.begin(NEWEST, NO_KEY, None, b""), WRITTEN)

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
        self._rewrite(_settled(NEWEST, self.newest, b"") + _settled(KEPT, NO_KEY, kept))

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
            intent = _parse(buffer, self._end - start)
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


def made_at(key: bytes) -> int:
    """When the key's task was queued, in ms since 1970; 0 when its id is no UUID version 7 (RFC 9562, section 5.7)."""
    return int.from_bytes(key[:6], "big") if key[6] >> 4 == 7 else 0  # noqa: PLR2004


def read_all(fd: int, length: int, offset: int) -> bytes:
    """The bytes from `offset`: `length` of them, or fewer where the file ends. One pread(2) may return less."""
    found = os.pread(fd, length, offset)
    while len(found) < length and (more := os.pread(fd, length - len(found), offset + len(found))):
        found += more
    return found


def write_all(fd: int, text: bytes, offset: int) -> None:
    """Write to a regular file, whole. Raises OSError: the second try tells why the first one stopped short."""
    written = 0
    while written < len(text):
        written += os.pwrite(fd, text[written:], offset + written)


def sync_folder(path: Path) -> None:
    """Have a folder's entries on the disk: a file's own fsync(2) doesn't do that."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _record(kind: bytes, key: bytes, seen: tuple[int, int, int], text: bytes) -> bytes:
    checked = RECORD.pack(OPEN, 0, kind, key, *seen, len(text))[CHECKED:] + text
    return HEAD.pack(OPEN, crc32(checked)) + checked


def _settled(kind: bytes, key: bytes, text: bytes) -> bytes:
    return WRITTEN + _record(kind, key, NO_FILE, text)[1:]


def _parse(buffer: bytes, at: int) -> Intent | None:
    """The record that begins at `at`, which becomes its position; None when it isn't whole."""
    if at + RECORD.size > len(buffer):
        return None
    state, checksum, kind, key, device, inode, size, length = RECORD.unpack_from(buffer, at)
    end = at + RECORD.size + length
    if end > len(buffer) or crc32(memoryview(buffer)[at + CHECKED : end]) != checksum:
        return None
    return Intent(at, kind, key, device, inode, size, buffer[at + RECORD.size : end], state)


_journals: "weakref.WeakSet[Journal]" = weakref.WeakSet()


def _start_afresh() -> None:
    """In a forked child: an inherited file would share the parent's lock."""
    for journal in tuple(_journals):
        journal.close()


os.register_at_fork(after_in_child=_start_afresh)
