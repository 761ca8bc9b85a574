"""What ends a coroutine function before its own end: a time limit, where a thread runs it; and a user who cancels its task."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import async_to_sync

from durable_queue.task.cancelled import Cancelled
from durable_queue.task.limits import HEED, OverLimitError, over_limit
from durable_queue.task.running import RunningTask, current_task

P = ParamSpec("P")
R = TypeVar("R")


async def until_cancelled(
    attempt: RunningTask | None, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    """Await a call of a coroutine function, and cancel it when a user asks to cancel the task. Then it raises Cancelled.

    One that swallows the cancelling goes on to its own end. What comes after that is not cancelled.
    """
    if attempt is None:
        return await func(*args, **kwargs)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    is_over = False

    def cancel() -> None:
        if task and not is_over:
            task.cancel()

    def tell_loop() -> None:
        loop.call_soon_threadsafe(cancel)

    attempt.on_request = tell_loop
    try:
        if attempt.is_cancelled:
            raise Cancelled
        return await func(*args, **kwargs)
    except asyncio.CancelledError:
        if attempt.is_cancelled and task:
            task.uncancel()
            raise Cancelled from None
        raise
    finally:
        is_over, attempt.on_request = True, None


def run_coroutine(
    seconds: float, what: str, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run a coroutine function from a thread to its end, and cancel it after so many seconds (0.0: never), or with its task.

    The thread itself waits, and can't be interrupted, until then. Raises OverLimitError, Cancelled, and what the function
    raises.
    """
    is_late, attempt = False, current_task.get()

    async def run() -> R:
        nonlocal is_late
        limit = asyncio.timeout(seconds or None)
        try:
            async with limit:
                return await until_cancelled(attempt, func, *args, **kwargs)
        finally:
            is_late = limit.expired()

    try:
        return async_to_sync(run)()
    except TimeoutError as error:
        if is_late:
            raise OverLimitError(over_limit(what, seconds)) from error
        raise


def until_heeded(seconds: float) -> float:
    """A coroutine's limit, for the thread that waits for it: that is interrupted only if the coroutine heeds no cancelling."""
    return seconds + HEED if seconds else 0.0
