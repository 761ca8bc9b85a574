"""The identity of a write: two writes with the same identity are one write. It says nothing about their order."""

from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

TASK = 16  # bytes of a task's id
MARK = 16  # bytes that tell one of a task's writes from the others
FRESH = bytes(MARK)  # the mark of a write that is never repeated: the journal need not remember it
IDENTITY = TASK + MARK


class Identity(NamedTuple):
    """Which write of which task this is. It is the same in each attempt, so that the write happens once."""

    task: bytes  # the task's id, 16 bytes
    mark: bytes = FRESH
    place: tuple[int, int] | None = None  # call, number of earlier writes in it: as in version 0.1


def mark_of_key(key: str) -> bytes:
    """The mark of a write to which its task gave a key. Text, order and branch make no difference.

    Raises UnicodeEncodeError for a lone surrogate.
    """
    return blake2b(b"key:" + key.encode(), digest_size=MARK).digest()


def mark_of_text(kind: str, call: int, text: bytes) -> bytes:
    """The mark of a call's first write of a text. `kind`: append or replacement; `call`: the call's index in the task."""
    return blake2b(_prefix(kind, call) + text, digest_size=MARK).digest()


@lru_cache(maxsize=1024)
def _prefix(kind: str, call: int) -> bytes:
    return b"text:%b:%d:" % (kind.encode(), call)


def mark_of_repetition(mark: bytes, number: int) -> bytes:
    """The mark of a later write of the same text in the same call. `number`: how many came before it."""
    return blake2b(b"again:%b:%d" % (mark, number), digest_size=MARK).digest() if number else mark


def tells_time(task: bytes) -> bool:
    """Whether the id holds the time at which the task was enqueued: a UUID of version 7 (RFC 9562, section 5.7)."""
    return task[6] >> 4 == 7  # noqa: PLR2004


def made_at(task: bytes) -> int:
    """When the task was enqueued, in ms since 1970; 0 when its id does not hold the time."""
    return int.from_bytes(task[:6], "big") if tells_time(task) else 0
