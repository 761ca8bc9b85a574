"""The calls of a task. Each names a function by its dotted path; they run one after the other."""

import builtins
import functools
import inspect
import pickle
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pydoc import ErrorDuringImport
from types import ModuleType
from typing import Any

from django_q.exceptions import TimeoutException

from durable_queue.task.cancelled import Cancelled
from durable_queue.task.coroutine_limit import run_coroutine
from durable_queue.task.running import current_task

# A call as a payload holds it: the function's dotted path, its positional and its keyword arguments.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]

# The function of a task with several calls: `run_in_order`, by a path that stays the same when the function moves.
IN_ORDER = "durable_queue.run_in_order"

# What stands in the place of a call that an earlier attempt has made: `done`, with its result and the call.
DONE = "durable_queue.done"

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
    try:
        is_there = not path.startswith("__main__.") and find(path) is func
    except (LookupError, ErrorDuringImport):
        is_there = False
    if not is_there:
        raise TypeError(f"A worker can't import {path}: add a function that is defined at the top of a module.")
    return path


@functools.cache
def resolve(path: str) -> Callable[..., Any]:
    """The function with this dotted path, imported once in each process. Whatever is called by its path is found here.

    Raises LookupError if there is none, and pydoc.ErrorDuringImport, which names the module, when that raises on import.
    """
    try:
        func = find(path)
    except MissingError as error:
        raise LookupError(f"There is no function {path}: {error}.") from None
    if not callable(func):
        raise LookupError(f"There is no function {path}: what has this name is no function, but of {type(func)}.")
    return func


def already_imported(path: str) -> object:
    """What has this dotted path, if this process has imported it; None if it has not. It runs no code of others."""
    names = path_today(path).split(".")
    for end in range(len(names) - 1, 0, -1):
        if found := sys.modules.get(".".join(names[:end])):
            for name in names[end:]:
                found = getattr(found, "__dict__", {}).get(name)  # not getattr: a module or a class may answer by code
            return found
    return None


class MissingError(LookupError):
    """A module is missing, or an attribute; the text says which."""


def find(path: str) -> object:
    """What has this dotted path. Raises MissingError, and pydoc.ErrorDuringImport for a module that raises on import."""
    names = [name for name in path_today(path).split(".") if name]
    found: object = builtins
    imported = 0  # how many of the names are those of modules
    while imported < len(names) and (module := _import(".".join(names[: imported + 1]))):
        found, imported = module, imported + 1
    for index in range(imported, len(names)):
        try:
            found = getattr(found, names[index])
        except AttributeError:
            raise MissingError(_what_is_missing(names, index, imported, found)) from None
    if not names:
        raise MissingError("the path is empty")
    return found


def _import(name: str) -> ModuleType | None:
    """The module with this name, None if there is none. Not by pydoc, which takes some errors inside of it for that."""
    try:
        return import_module(name)
    except TimeoutException:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return None
        raise ErrorDuringImport(name, sys.exc_info()) from error


def _what_is_missing(names: Sequence[str], index: int, imported: int, holder: object) -> str:
    """`holder`: what was looked at, for the name at `index`."""
    before = ".".join(names[:index])
    may_be_module = index == 0 or (hasattr(holder, "__path__") and index + 1 < len(names))
    if may_be_module:
        return f"there is no module {'.'.join(names[: index + 1])}"
    return f"{'the module ' if index == imported else ''}{before} has no attribute {names[index]}"


def run_in_order(*calls: Call) -> list[Any] | None:
    """Run the calls of a task one after the other. If a call raises, the later ones do not run.

    The next attempt goes on with the call that raised. Raises Cancelled before a call if a user has asked to cancel the task.

    Returns the calls' results for the history, or None if all of them are None.
    """
    task = current_task.get()
    own = task if task and task.enter_calls(IN_ORDER) else None
    results = own.results if own else []
    for index, (path, args, kwargs) in enumerate(calls):
        if path == DONE:
            results.append(args[0])
            continue
        if own:
            if own.is_cancelled:
                raise Cancelled
            own.come_to(index, path_today(path))
        func = resolve(path)
        seconds = own.begin_call(index, path_today(path), func) if own else 0.0
        if inspect.iscoroutinefunction(func):
            result = run_coroutine(seconds, f"The call of {path}", func, *args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if own:
            own.end_call()
        results.append(result)
    return results if any(result is not None for result in results) else None


def done(result: object, *_: object) -> object:
    """Stand for a call that an earlier attempt has made; returns its result."""
    return result


def with_progress(calls: Sequence[Call], results: Sequence[object]) -> tuple[Call, ...]:
    """The calls of a task whose first ones have been made, with these results, as the next attempt is to find them."""
    made = (
        call if call[0] == DONE else (DONE, (_kept(result), *call), {}) for call, result in zip(calls, results, strict=False)
    )
    return (*made, *calls[len(results) :])


def without_progress(calls: Sequence[Call]) -> tuple[Call, ...]:
    """The calls as they were asked for."""
    return tuple(tuple(call[1][1:]) if call[0] == DONE else call for call in calls)


def _kept(result: object) -> object:
    """The result, or None if it can't be pickled: that costs the result, and not the progress."""
    try:
        pickle.loads(pickle.dumps(result))  # noqa: S301 - our own. An exception may be pickled, and not be made again
    except BaseException:  # pickling runs code of others
        return None
    return result
