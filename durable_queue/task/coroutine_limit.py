"""A time limit on a coroutine function that a thread runs."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import async_to_sync

from durable_queue.task.limits import HEED, OverLimitError, over_limit

P = ParamSpec("P")
R = TypeVar("R")


def run_coroutine(
    seconds: float, what: str, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run a coroutine function from a thread to its end, and cancel it after so many seconds; 0.0 for never.

    The thread itself waits, and can't be interrupted, until then. Raises OverLimitError, and what the function raises.
    """
    is_late = False

    async def run() -> R:
        nonlocal is_late
        limit = asyncio.timeout(seconds or None)
        try:
            async with limit:
                return await func(*args, **kwargs)
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
