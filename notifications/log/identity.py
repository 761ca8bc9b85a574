"""What makes two writes the same write. Order is another matter: there only the task's id counts (`made_at`)."""

from hashlib import blake2b
from typing import NamedTuple

TASK = 16  # bytes of a task's id
MARK = 16  # bytes that tell one of a task's writes from the others
FRESH = bytes(MARK)  # the mark of a write that never comes again, so that nobody needs to remember it
IDENTITY = TASK + MARK


class Identity(NamedTuple):
    """Which write of which task this is; the same in each attempt. With the same identity a text is written once."""

    task: bytes  # the task's id, 16 bytes
    mark: bytes = FRESH
    place: bytes = b""  # the name of this write in a journal of version 0.1: notifications/log/legacy.py

    @property
    def name(self) -> bytes:
        """The 32 bytes by which the journal remembers it."""
        return self.task + self.mark


def mark_of_key(key: str) -> bytes:
    """The mark of a write that its task has given a key: whatever the text, the order and the branch.

    Raises UnicodeEncodeError for half a character (a lone surrogate).
    """
    return blake2b(b"key:" + key.encode(), digest_size=MARK).digest()


def mark_of_text(kind: str, call: int, text: bytes) -> bytes:
    """The mark of the first write of a text in a call (its index in the task); `kind` tells an append from a replacement."""
    return blake2b(b"text:%b:%d:%b" % (kind.encode(), call, text), digest_size=MARK).digest()


def mark_of_repetition(mark: bytes, number: int) -> bytes:
    """The mark of a later write of the same text in the same call; `number` of them came before."""
    return blake2b(b"again:%b:%d" % (mark, number), digest_size=MARK).digest() if number else mark


def made_at(task: bytes) -> int:
    """When a task was queued, in ms since 1970; 0 when its id is no UUID version 7 (RFC 9562, section 5.7)."""
    return int.from_bytes(task[:6], "big") if task[6] >> 4 == 7 else 0  # noqa: PLR2004
