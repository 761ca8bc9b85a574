"""A task as clients see it."""

import json
from datetime import UTC, datetime
from typing import Any

from durable_queue.states import State
from durable_queue.status import TaskStatus, result_of
from durable_queue.task import preview

LONGEST = 64 * 1024  # characters of a result's JSON; of a longer one, its beginning is shown, as Python text
QUICK, LONGEST_IN_LIST = 1024, 8 * 1024  # characters of a result as it is stored: a hundred longer ones would take seconds

IN_LIST = "It is too long for a list. Ask for the task alone."

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).iterencode


def as_json(status: TaskStatus, *, in_list: bool = False) -> dict[str, Any]:
    """The task as a JSON object: always with the same keys, and null for what is not known or has not happened yet."""
    result, is_repr = shown_result(status, in_list=in_list) if status.state == State.SUCCEEDED else (None, False)
    return {
        "id": status.id,
        "status": str(status.state.value),
        "name": status.name,
        "attempts": status.attempts,
        "max_attempts": status.max_attempts,
        "enqueued_at": moment(status.enqueued_at),
        "due_at": moment(status.due_at),
        "started_at": moment(status.started_at),
        "finished_at": moment(status.finished_at),
        "wait_ms": milliseconds(status.enqueued_at, status.started_at),
        "run_ms": milliseconds(status.started_at, status.finished_at),
        "progress": {"done": status.calls_done, "of": status.calls},
        "cancel_requested_at": moment(status.cancel_requested_at),
        "result": result,
        "result_is_repr": is_repr,
        "error": None if status.state == State.SUCCEEDED else status.error or None,
    }


def is_quick(status: TaskStatus) -> bool:
    """Whether `as_json` takes microseconds: else it is not for the event loop."""
    return len(status.stored_result or "") <= QUICK


def moment(value: datetime | None) -> str | None:
    """A moment as RFC 3339 writes it, in UTC."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if value else None


def milliseconds(since: datetime | None, until: datetime | None) -> float | None:
    """The time between two moments; the clocks of two hosts may differ, but no time is below 0."""
    return max(0.0, round((until - since).total_seconds() * 1000, 3)) if since and until else None


def shown_result(status: TaskStatus, *, in_list: bool = False) -> tuple[Any, bool]:
    """A result, and whether it is Python's text of it: that of a value which JSON can't give back, or not within bounds.

    None of a result's code is run: what is no plain value is shown with the name of its class (durable_queue/task/preview.py).
    """
    if in_list and len(status.stored_result or "") > LONGEST_IN_LIST:
        return IN_LIST, True
    value = result_of(status)
    return (value, False) if is_json(value) else (preview.shown(value), True)


def is_json(value: object) -> bool:
    """Whether JSON gives the same value back, and is not too long. A few bytes may hold endless lists: this stops in time."""
    parts, size = [], 0
    try:
        for part in _encode(value):
            parts.append(part)
            size += len(part)
            if size > LONGEST:
                return False
        text = "".join(parts)
        text.encode()  # a lone surrogate has no UTF-8
        return bool(json.loads(text) == value)
    except (TypeError, ValueError, RecursionError):
        return False
