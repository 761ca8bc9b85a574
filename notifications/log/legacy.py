"""The journals of version 0.1. This version reads them once, when it begins its own journal, and doesn't change them.

Version 0.1 had a journal for each spelling of the log's path. It identified a write by its place: the task, the call, and
the number of earlier writes in the call. A record that holds its text gives an identity of this version. A record that a
trim had reduced to its place gives only the place, which is kept until its task ends.
"""

import fcntl
import os
import re
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from notifications.log.disk import read_all
from notifications.log.identity import TASK, mark_of_repetition, mark_of_text, tells_time
from notifications.log.interrupted_appends import places, stands_appended
from notifications.log.records import KEPT, NO_TASK, PLACE, PLACES, File, Intent, newest, packed_settled

JOURNAL = re.compile(r"[0-9a-f]{16}-(?!.*\.new$)")

APPEND, REPLACE, NEWEST, OLD_KEPT = b"a", b"r", b"n", b"k"
WRITTEN, VOID, READY = b"w", b"v", b"y"
RECORD = struct.Struct("<cIc24sQQQI")
CHECKED = struct.calcsize("<cI")
LOCK_WAIT_SECONDS = 8.0  # for the lock of one old journal
LOCK_PAUSE_SECONDS = 0.01  # between two tries


class _Record(NamedTuple):
    state: bytes
    kind: bytes
    place: bytes
    file: File
    text: bytes


@dataclass
class Known:
    """The writes that the old journals knew."""

    identities: set[bytes] = field(default_factory=set)
    places: set[bytes] = field(default_factory=set)
    newest: bytes = NO_TASK

    def records(self, database: bytes) -> bytes:
        """The same writes as records of this version. `database`: the id of their tasks' database."""
        found = [newest(self.newest)] if self.newest != NO_TASK else []
        if self.identities:
            found.append(packed_settled(KEPT, b"".join(self.identities), database=database))
        if self.places:
            found.append(packed_settled(PLACES, b"".join(self.places), database=database))
        return b"".join(found)


def read_old_journals(folder: Path, log: Path) -> Known:
    """Read the old journals in a folder. `log`: the log's path, without symbolic links. Raises TimeoutError and OSError."""
    known = Known()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if JOURNAL.match(path.name):
            _read_journal(path, log, known)
    return known


def _read_journal(path: Path, log: Path, known: Known) -> None:
    journal = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _lock(journal, path)
        status = os.fstat(journal)
        records = list(_parsed(read_all(journal, status.st_size, 0)))
        _take_in(records, log, status.st_mtime_ns, known)
    finally:
        os.close(journal)


def _lock(journal: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} was locked by another process for {LOCK_WAIT_SECONDS:g} s") from None
            time.sleep(LOCK_PAUSE_SECONDS)
        else:
            return


def _parsed(buffer: bytes) -> Iterator[_Record]:
    at = 0
    while at + RECORD.size <= len(buffer):
        state, checksum, kind, place, device, inode, size, length = RECORD.unpack_from(buffer, at)
        start, end = at + RECORD.size, at + RECORD.size + length
        if end > len(buffer) or crc32(buffer[at + CHECKED : end]) != checksum:
            return  # the writer was killed, or the disk was full; it had not touched the log yet
        yield _Record(state, kind, place, (device, inode, size), buffer[start:end])
        at = end


def _take_in(records: list[_Record], log: Path, touched: int, known: Known) -> None:
    texts: dict[tuple[bytes, int, str, bytes], list[int]] = defaultdict(list)
    for record in records:
        if record.kind == NEWEST:
            known.newest = max(known.newest, record.place[:TASK])
        elif record.kind == OLD_KEPT:
            known.places.update(record.text[at : at + PLACE.size] for at in range(0, len(record.text), PLACE.size))
        elif record.state == WRITTEN or (record.state != VOID and _stands(record, log, touched)):
            task, call, count = PLACE.unpack(record.place)
            kind, text = ("append", record.text) if record.kind == APPEND else ("replace", record.text.partition(b"\0")[2])
            texts[task, call, kind, text].append(count)
            if tells_time(task):
                known.newest = max(known.newest, task)
    for (task, call, kind, text), counts in texts.items():
        mark = mark_of_text(kind, call, text)
        known.identities.update(task + mark_of_repetition(mark, number) for number in range(len(set(counts))))


def _stands(record: _Record, log: Path, touched: int) -> bool:
    """Whether an interrupted write stands in the log."""
    if record.kind == APPEND:
        intent = Intent(0, record.state, record.kind, b"", b"", record.file, record.text)
        return stands_appended(intent, log, since=touched, durable=True)
    # A replacement's record doesn't name the file that was to become the log; it only says that the file was complete.
    text = record.text.partition(b"\0")[2]
    temporary = log.with_name(f".{log.name}.notifier")
    return record.state == READY and not temporary.exists() and _begins_with(log, record.file, text, touched)


def _begins_with(log: Path, before: File, text: bytes, touched: int) -> bool:
    for path in {log, *places(before, log, since=touched)}:
        try:
            with path.open("rb") as file:
                if file.read(len(text)) == text:
                    return True
        except OSError:
            continue
    return False
