"""Tasks that heed a user's request to cancel them, and tasks that don't."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from durable_queue import Cancelled, current_task
from notifications.tasks import write_log
from tests.support.promised_tasks import note

LONGEST = 60.0  # seconds: nobody waits for that


def heed() -> None:
    """Look again and again whether it is cancelled."""
    deadline = time.monotonic() + LONGEST
    task = current_task.get()
    while task and time.monotonic() < deadline:
        if task.is_cancelled:
            raise Cancelled
        time.sleep(0.01)


def finish_when_asked() -> str:
    """Hear the request, and end as it would have."""
    with suppress(Cancelled):
        heed()
    return "done"


def fail_when_asked() -> None:
    """Hear the request, and fail."""
    finish_when_asked()
    raise ValueError("disk full")


async def wait() -> None:
    """A coroutine that waits."""
    await asyncio.sleep(LONGEST)


async def swallow() -> str:
    """A coroutine that ends as it would have."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(LONGEST)
    return "done"


def raise_unasked() -> None:
    """Raise what only a task that was asked to stop should raise."""
    raise Cancelled("nobody asked")


def line(text: str) -> str:
    """Write a line to the log."""
    write_log(f"{text}\n")
    return text


def hook(task: Any) -> None:
    """Note the end."""
    note("end", task.id, task.success, task.result)
