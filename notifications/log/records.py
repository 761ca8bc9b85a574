"""The format of the journal's records, in the file and in memory."""

import struct
from collections.abc import Mapping
from typing import NamedTuple
from zlib import crc32

from notifications.log.identity import IDENTITY, TASK

# Kinds of record. The first three are intents: a process is about to make this write.
APPEND = b"a"
RENAME = b"r"  # a file that holds the text is complete, and about to be renamed over the log
OVERWRITE = b"p"  # the log is about to be overwritten in place
INTENTS = APPEND + RENAME + OVERWRITE
HEADER = b"h"  # the first record: how often the journal was trimmed
NEWEST = b"n"  # from here on, the task in it counts as the newest that has written
KEPT = b"k"  # identities that a trim kept
PLACES = b"o"  # the same as version 0.1 noted them: notifications/log/legacy.py

# States of an intent; other records are WRITTEN.
OPEN = b"o"  # its writer is at work, or dead
WRITTEN = b"w"
VOID = b"v"  # not written: the identity may be used again

# State, checksum of all that follows; kind, database, identity, device, inode, size, length of the text that follows.
HEAD, CHECKED = struct.Struct("<cI"), struct.Struct("<c8s32sQQQI")
RECORD = struct.Struct("<cIc8s32sQQQI")  # both together

DATABASE = 8  # bytes of a database's id; zeros: none
NO_DATABASE = bytes(DATABASE)
NO_IDENTITY = bytes(IDENTITY)
NO_TASK = bytes(TASK)
PLACE = struct.Struct(">16sII")  # the identity in version 0.1: task, call, number of earlier writes in the call

_TRIMS = struct.Struct("<Q")
_TRIM_OF = struct.Struct("<8sQ")


# The file that an intent names: its device, inode and size. For a RENAME it is the file that becomes the log, otherwise the
# log as it was before the write.
File = tuple[int, int, int]
NO_FILE = (0, 0, 0)


class Intent(NamedTuple):
    """A record that was read or just written, most often an intent."""

    position: int  # in the journal
    state: bytes
    kind: bytes
    database: bytes
    identity: bytes
    file: File
    text: bytes


def packed(kind: bytes, database: bytes, identity: bytes, file: File, text: bytes) -> bytes:
    """The bytes of an open intent."""
    checked = CHECKED.pack(kind, database, identity, *file, len(text)) + text
    return HEAD.pack(OPEN, crc32(checked)) + checked


def packed_settled(kind: bytes, text: bytes, *, database: bytes = NO_DATABASE, identity: bytes = NO_IDENTITY) -> bytes:
    """The bytes of a record that is not an intent."""
    return WRITTEN + packed(kind, database, identity, NO_FILE, text)[1:]


def header(trims: int, databases: Mapping[bytes, int]) -> bytes:
    """The first record: the number of trims, and for each database the last trim that dropped identities of its tasks."""
    return packed_settled(HEADER, _TRIMS.pack(trims) + b"".join(_TRIM_OF.pack(*each) for each in databases.items()))


def read_header(text: bytes) -> tuple[int, dict[bytes, int]]:
    """The number and the databases that `header` was given."""
    return _TRIMS.unpack_from(text)[0], dict(_TRIM_OF.iter_unpack(text[_TRIMS.size :]))


def newest(task: bytes) -> bytes:
    """A record that says which task counts as the newest one."""
    return packed_settled(NEWEST, b"", identity=task.ljust(IDENTITY, b"\0"))


def parse(buffer: bytes, start: int, position: int) -> Intent | None:
    """The record at this position of the journal; None when it is not complete. `start`: where the buffer begins."""
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
