"""What will most likely fail once a schedule runs: an unknown function or hook, arguments that don't fit.

It may be right a minute later, after a deployment. So it is refused where a person types it, and only marked elsewhere.
"""

import builtins
import hashlib
import inspect
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any

from durable_queue.schedule.arguments import read_call
from durable_queue.task.calls import path_today

FIELDS = frozenset({"func", "hook", "args", "kwargs", "intended_date_kwarg"})  # what a doubt depends on

_UNKNOWN = object()


def doubt_about(schedule: Any) -> str:
    """What will fail, "" for nothing that is known. Imports nothing: what was not imported may be right. Never raises."""
    func = _look_up(schedule.func or "")
    if func is None:
        return f"There is no function {schedule.func}."
    if schedule.hook and _look_up(schedule.hook) is None:
        return f"There is no hook {schedule.hook}."
    if func is _UNKNOWN:
        return ""
    return misfit(func, schedule.args, schedule.kwargs, schedule.intended_date_kwarg)


def misfit(func: Any, args: str | None, kwargs: str | None, intended_date_kwarg: str | None) -> str:
    """Why the function can't be called with these arguments, as the row has them; "" if it can, or if that is unknown."""
    try:
        call = read_call(args, kwargs)
        named = call.kwargs | ({intended_date_kwarg: ""} if intended_date_kwarg else {})
        signature = inspect.signature(func)
    except Exception:  # they can't be read, which others say; functions written in C may have no signature
        return ""
    try:
        signature.bind(*call.args, **named)
    except TypeError as error:
        return f"The arguments don't fit the function: {error}."
    return ""


def fingerprint(schedule: Any) -> str:
    """Of what a doubt depends on. It is unlike that of any rule: a doubt keeps no schedule from running."""
    parts = [getattr(schedule, name) for name in sorted(FIELDS)]
    return f"doubt:{hashlib.sha256(repr(parts).encode()).hexdigest()[:50]}"


def _look_up(path: str) -> Any:
    """What the dotted path names, None if there is no such thing, _UNKNOWN if only an import could tell."""
    parts = path_today(path).split(".")
    try:
        for length in range(len(parts), 0, -1):
            module = sys.modules.get(".".join(parts[:length]))
            if module is not None:
                return _inside(module, parts[length:])
        if len(parts) == 1:
            return getattr(builtins, path, None)
        return _UNKNOWN if find_spec(parts[0]) else None
    except Exception:  # an attribute may be code, and a path may be any text
        return _UNKNOWN


def _inside(module: Any, names: list[str]) -> Any:
    if getattr(module.__spec__, "_initializing", False):
        return _UNKNOWN  # it schedules its own function while it is imported
    found = module
    for name in names:
        if hasattr(found, name):
            found = getattr(found, name)
            continue
        folders = getattr(found, "__path__", None)
        return _UNKNOWN if folders and PathFinder.find_spec(f"{found.__name__}.{name}", folders) else None
    return found if callable(found) else None
