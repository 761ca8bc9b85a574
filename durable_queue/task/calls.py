"""What a task does: calls of functions, each by its dotted path, one after the other."""

import functools
import inspect
import pydoc
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync

from durable_queue.task.running import current_task

# A call as the queue holds it: the function's dotted path, its positional and its keyword arguments.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]

# The task of several calls: `run_in_order`, by a path that stays the same wherever the function is.
IN_ORDER = "durable_queue.run_in_order"

# Paths that stand in queue rows, schedules, settings and history, and the paths of today. A task is never lost to a move.
MOVED = {
    "notifications.background.run_in_order": IN_ORDER,
    "notifications.cluster.history.call_hook_of": "durable_queue.work.follow_ups.call_hook_of",
}


def path_today(path: str) -> str:
    """The path under which a function is found now."""
    return MOVED.get(path, path)


@functools.cache
def path_of(func: Callable[..., Any]) -> str:
    """The dotted path under which a worker finds the function. Raises TypeError when it doesn't."""
    if func is run_in_order:
        return IN_ORDER
    path = f"{getattr(func, '__module__', None)}.{getattr(func, '__qualname__', func)}"
    if path.startswith("__main__.") or pydoc.locate(path) is not func:
        raise TypeError(f"A worker can't import {path}: add a function that is defined at the top of a module.")
    return path


@functools.cache
def resolve(path: str) -> Callable[..., Any]:
    """The function with this dotted path, imported once in each process.

    Raises LookupError when there is none, and whatever its module raises on import.
    """
    func = pydoc.locate(path_today(path))
    if not callable(func):
        raise LookupError(f"There is no function {path}.")
    return func


def run_in_order(*calls: Call) -> list[Any] | None:
    """What a worker runs for a task of several calls: each in turn; one that raises keeps the later ones from running.

    Returns what they returned, for the history; None when none of them had anything to say.
    """
    task = current_task.get()
    own = task if task and task.enter_calls(IN_ORDER) else None
    results = []
    for index, (path, args, kwargs) in enumerate(calls):
        func = resolve(path)
        if own:
            own.begin_call(index, path_today(path), func)
        if inspect.iscoroutinefunction(func):
            func = async_to_sync(func)
        results.append(func(*args, **kwargs))
    return results if any(result is not None for result in results) else None
