"""How the journal's records look, in the file and in memory."""

import struct
from collections.abc import Mapping
from typing import NamedTuple
from zlib import crc32

from notifications.log.identity import IDENTITY, TASK

# Kinds of record. The first three are intents: what somebody is about to do.
APPEND = b"a"
RENAME = b"r"  # a file that holds the text is complete, and about to be renamed over the log
OVERWRITE = b"p"  # the log is about to be overwritten in place
INTENTS = APPEND + RENAME + OVERWRITE
HEADER = b"h"  # the first record: how often the journal was trimmed
NEWEST = b"n"  # from here on, its task counts as the newest that has written
KEPT = b"k"  # identities that outlived a trim
PLACES = b"o"  # the same, of version 0.1: notifications/log/legacy.py

# States of an intent; other records are WRITTEN.
OPEN = b"o"  # its writer is at it, or dead
WRITTEN = b"w"
VOID = b"v"  # not written: the identity is free

# State, checksum of all that follows it; kind, database, identity, device, inode, size, length of the text that comes then.
HEAD, CHECKED = struct.Struct("<cI"), struct.Struct("<c8s32sQQQI")
RECORD = struct.Struct("<cIc8s32sQQQI")  # the one, and then the other

DATABASE = 8  # bytes that name a database; zeros: none
NO_DATABASE = bytes(DATABASE)
NO_IDENTITY = bytes(IDENTITY)
NO_TASK = bytes(TASK)
PLACE = struct.Struct(">16sII")  # what version 0.1 called a write: task, call, how many writes the call had made before

_TRIMS = struct.Struct("<Q")
_TRIM_OF = struct.Struct("<8sQ")


# A file that an intent is about: its device, inode and size. For an append the log before it; for RENAME what becomes the log.
File = tuple[int, int, int]
NO_FILE = (0, 0, 0)


class Intent(NamedTuple):
    """A record as it was read, or was just written; intents above all."""

    position: int  # in the journal
    state: bytes
    kind: bytes
    database: bytes
    identity: bytes
    file: File
    text: bytes


def packed(kind: bytes, database: bytes, identity: bytes, file: File, text: bytes) -> bytes:
    """An intent's bytes, open."""
    checked = CHECKED.pack(kind, database, identity, *file, len(text)) + text
    return HEAD.pack(OPEN, crc32(checked)) + checked


def packed_settled(kind: bytes, text: bytes, *, database: bytes = NO_DATABASE, identity: bytes = NO_IDENTITY) -> bytes:
    """The bytes of a record that is no intent."""
    return WRITTEN + packed(kind, database, identity, NO_FILE, text)[1:]


def header(trims: int, databases: Mapping[bytes, int]) -> bytes:
    """The first record: the number of trims, and of each database the last one that dropped identities of its tasks."""
    return packed_settled(HEADER, _TRIMS.pack(trims) + b"".join(_TRIM_OF.pack(*each) for each in databases.items()))


def read_header(text: bytes) -> tuple[int, dict[bytes, int]]:
    """What `header` was given."""
    return _TRIMS.unpack_from(text)[0], dict(_TRIM_OF.iter_unpack(text[_TRIMS.size :]))


def newest(task: bytes) -> bytes:
    """A record that says which task counts as the newest."""
    return packed_settled(NEWEST, b"", identity=task.ljust(IDENTITY, b"\0"))


def parse(buffer: bytes, start: int, position: int) -> Intent | None:
    """The record at this position of the journal; None when it isn't whole. `start`: where the buffer was read from."""
    at = position - start
    if at + RECORD.size > len(buffer):
        return None
    state, checksum, kind, database, identity, device, inode, size, length = RECORD.unpack_from(buffer, at)
    end = at + RECORD.size + length
    if end > len(buffer) or crc32(memoryview(buffer)[at + HEAD.size : end]) != checksum:
        return None
    text = buffer[at + RECORD.size : end]
    return Intent(position, state, kind, database, identity, (device, inode, size), text)


def is_cut_short(buffer: bytes, start: int, position: int) -> bool:
    """Whether the journal ends in the middle of the record at this position, as after a kill."""
    rest = len(buffer) - (position - start)
    return rest < RECORD.size or rest < RECORD.size + RECORD.unpack_from(buffer, position - start)[-1]
