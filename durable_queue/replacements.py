"""Ours in the place of django-q2's: the functions of `django_q.tasks` that don't do what its documentation says.

Any module may have said `from django_q.tasks import result` before our `ready()` is called: another app's `models.py`, for
one. Whoever changes the module then comes too late, and the code of a function that others hold (`__code__`) is no place
for a surprise. But nobody can import `django_q.tasks` before all apps are named, since it imports models; and that is after
Django has made our AppConfig. So that is when we ask the import system to be told of `django_q.tasks`, and put ours in
right after it has run. All others, whenever they import, get plain functions of ours, and no old ones are around.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULE = "django_q.tasks"
FUNCTIONS = {
    "result": "durable_queue.waiting.tasks",
    "result_cached": "durable_queue.waiting.tasks",
    "fetch": "durable_queue.waiting.tasks",
    "fetch_cached": "durable_queue.waiting.tasks",
    "result_group": "durable_queue.waiting.groups",
    "result_group_cached": "durable_queue.waiting.groups",
    "fetch_group": "durable_queue.waiting.groups",
    "fetch_group_cached": "durable_queue.waiting.groups",
    "count_group": "durable_queue.waiting.groups",
    "count_group_cached": "durable_queue.waiting.groups",
    "delete_group": "durable_queue.waiting.groups",
    "delete_group_cached": "durable_queue.waiting.groups",
    "async_task": "durable_queue.waiting.queueing",
    "async_iter": "durable_queue.waiting.iterations",
    "_sync": "durable_queue.work.synchronous",
}

METHODS = (
    ("Chain", "chain", ("result", "fetch")),
    ("Iter", "iter", ("result", "fetch")),
    ("AsyncTask", "task", ("result", "fetch", "result_group", "fetch_group")),
)


class _Finder(MetaPathFinder):
    """Finds what the other finders find, and has ours put in once it has run."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        for finder in tuple(sys.meta_path):
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec and spec.loader:
                execute = functools.partial(_execute_and_replace, spec.loader.exec_module)
                spec.loader.exec_module = execute  # type: ignore[method-assign]
                return spec
        return None


def _execute_and_replace(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    execute(module)
    replace(module)


def replace(module: ModuleType) -> None:
    """Put our functions into `django_q.tasks`, which has just run."""
    from durable_queue.task import originals  # noqa: PLC0415 - these need the models

    originals.keep(module)
    for name, home in FUNCTIONS.items():
        setattr(module, name, getattr(import_module(home), name))
    methods = import_module("durable_queue.waiting.methods")
    for owner, prefix, names in METHODS:
        for name in names:
            setattr(getattr(module, owner), name, getattr(methods, f"{prefix}_{name}"))


def replace_once_imported() -> None:
    """Have ours put in when somebody imports `django_q.tasks` for the first time, or again (`importlib.reload`)."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
