"""How the journal's records look, in the file and in memory."""

import struct
from dataclasses import dataclass
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


def made_at(key: bytes) -> int:
    """When the key's task was queued, in ms since 1970; 0 when its id is no UUID version 7 (RFC 9562, section 5.7)."""
    return int.from_bytes(key[:6], "big") if key[6] >> 4 == 7 else 0  # noqa: PLR2004


def packed(kind: bytes, key: bytes, seen: tuple[int, int, int], text: bytes) -> bytes:
    checked = RECORD.pack(OPEN, 0, kind, key, *seen, len(text))[CHECKED:] + text
    return HEAD.pack(OPEN, crc32(checked)) + checked


def packed_settled(kind: bytes, key: bytes, text: bytes) -> bytes:
    return WRITTEN + packed(kind, key, NO_FILE, text)[1:]


def parse(buffer: bytes, at: int) -> Intent | None:
    """The record that begins at `at`, which becomes its position; None when it isn't whole."""
    if at + RECORD.size > len(buffer):
        return None
    state, checksum, kind, key, device, inode, size, length = RECORD.unpack_from(buffer, at)
    end = at + RECORD.size + length
    if end > len(buffer) or crc32(memoryview(buffer)[at + CHECKED : end]) != checksum:
        return None
    return Intent(at, kind, key, device, inode, size, buffer[at + RECORD.size : end], state)
