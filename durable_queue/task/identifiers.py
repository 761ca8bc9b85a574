"""Task ids that tell when they were made: UUID version 7 (RFC 9562, section 5.7), as 32 hexadecimal digits.

django-q2's random ids scatter over the history's index, and each row costs more as the index grows. Nor do they tell when a
task was enqueued, for which django-q2's history has no column.
"""

import os
import re
import time
from datetime import UTC, datetime
from typing import Any

_IS_ID = re.compile("[0-9a-fA-F]{32}").fullmatch


def new_task_id() -> str:
    """A new id: 48 bits of milliseconds since 1970, 12 bits of their fraction (section 6.2, method 3), random bits.

    Ids that one host makes one after the other sort in this order: the fraction counts quarters of a microsecond.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    number = milliseconds << 80 | 0x7 << 76 | (rest * 4096 // 1_000_000) << 64  # 7: the version
    number |= 0x2 << 62 | int.from_bytes(os.urandom(8), "big") >> 2  # 2: the variant
    return f"{number:032x}"


class BadIdError(ValueError):
    """A task was to be enqueued whose id is none."""

    def __init__(self, task_id: object) -> None:
        super().__init__(f"The task's id is {task_id!r:.60}; an id has 32 hexadecimal digits")


def is_task_id(value: object) -> bool:
    """Whether this is a task's id: 32 hexadecimal digits, as django-q2's `uuid()` and `new_task_id` make them."""
    return isinstance(value, str) and _IS_ID(value) is not None


def is_time_ordered(task_id: str) -> bool:
    """Whether `new_task_id` made this id."""
    return len(task_id) == 32 and task_id[12] == "7"  # noqa: PLR2004


def queued_at(task_id: str) -> datetime | None:
    """When the task was enqueued, to the millisecond; None for an id that `new_task_id` did not make."""
    if not is_time_ordered(task_id):
        return None
    try:
        return datetime.fromtimestamp(int(task_id[:12], 16) / 1000, UTC)
    except (ValueError, OverflowError):
        return None


def queued_if_untold(task: dict[str, Any]) -> datetime | None:
    """When a task, as its payload has it, was queued, if its id doesn't tell."""
    started = task["started"]
    return started if not is_time_ordered(task["id"]) and isinstance(started, datetime) and started.tzinfo else None
