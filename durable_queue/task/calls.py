"""The calls of a task. Each names a function by its dotted path; they run one after the other."""

import functools
import inspect
import pydoc
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync

from durable_queue.task.running import current_task

# A call as a payload holds it: the function's dotted path, its positional and its keyword arguments.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]

# The function of a task with several calls: `run_in_order`, by a path that stays the same when the function moves.
IN_ORDER = "durable_queue.run_in_order"

# Old paths that queue rows, schedules, settings and history may hold, and the paths of today. No task is lost to a move.
MOVED = {
    "notifications.background.run_in_order": IN_ORDER,
    "notifications.cluster.history.call_hook_of": "durable_queue.work.follow_ups.call_hook_of",
}


def path_today(path: str) -> str:
    """The path under which the function is found today."""
    return MOVED.get(path, path)


@functools.cache
def path_of(func: Callable[..., Any]) -> str:
    """The dotted path by which a worker can import the function. Raises TypeError if it can't."""
    if func is run_in_order:
        return IN_ORDER
    path = f"{getattr(func, '__module__', None)}.{getattr(func, '__qualname__', func)}"
    if path.startswith("__main__.") or pydoc.locate(path) is not func:
        raise TypeError(f"A worker can't import {path}: add a function that is defined at the top of a module.")
    return path


@functools.cache
def resolve(path: str) -> Callable[..., Any]:
    """The function with this dotted path, imported once in each process.

    Raises LookupError if there is none, and any exception that its module raises on import.
    """
    func = pydoc.locate(path_today(path))
    if not callable(func):
        raise LookupError(f"There is no function {path}.")
    return func


def run_in_order(*calls: Call) -> list[Any] | None:
    """Run the calls of a task one after the other. If a call raises, the later ones do not run.

    Returns the calls' results for the history, or None if all of them are None.
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
