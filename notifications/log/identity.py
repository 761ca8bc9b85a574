"""What makes two writes the same write. Order is another matter: there only the task's id counts (`made_at`)."""

from functools import lru_cache
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
    place: tuple[int, int] | None = None  # its call, and how many writes the call had made before: as version 0.1 counted


def mark_of_key(key: str) -> bytes:
    """The mark of a write that its task has given a key: whatever the text, the order and the branch.

    Raises UnicodeEncodeError for half a character (a lone surrogate).
    """
    return blake2b(b"key:" + key.encode(), digest_size=MARK).digest()


def mark_of_text(kind: str, call: int, text: bytes) -> bytes:
    """The mark of the first write of a text in a call (its index in the task); `kind` tells an append from a replacement."""
    return blake2b(_prefix(kind, call) + text, digest_size=MARK).digest()


@lru_cache(maxsize=1024)
def _prefix(kind: str, call: int) -> bytes:
    return b"text:%b:%d:" % (kind.encode(), call)


def mark_of_repetition(mark: bytes, number: int) -> bytes:
    """The mark of a later write of the same text in the same call; `number` of them came before."""
    return blake2b(b"again:%b:%d" % (mark, number), digest_size=MARK).digest() if number else mark


def tells_time(task: bytes) -> bool:
    """Whether a task's id tells when it was queued: a UUID of version 7 (RFC 9562, section 5.7)."""
    return task[6] >> 4 == 7  # noqa: PLR2004


def made_at(task: bytes) -> int:
    """When a task was queued, in ms since 1970; 0 when its id doesn't tell."""
    return int.from_bytes(task[:6], "big") if tells_time(task) else 0
