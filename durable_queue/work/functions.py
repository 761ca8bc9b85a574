"""A task's function: what it is, whether it runs alone, and how long a call of it may take."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from django_q.conf import Conf

from durable_queue.task.calls import path_today, resolve, run_in_order
from durable_queue.task.policy import policy_for, runs_alone


class Function(NamedTuple):
    """A task's function."""

    itself: Callable[..., Any]
    is_coroutine: bool  # whether it is a coroutine function
    runs_alone: bool


def timeout_of(task: dict[str, Any], path: str, func: object) -> float:
    """The seconds that a call of a function may take, 0 for any: what its task says, else its policy, else `Q_CLUSTER`."""
    timeout = task.get("timeout")
    return limit_of(path, func) if timeout is None else max(0.0, float(timeout))


def limit_of(path: str, func: object) -> float:
    """The seconds that a call of a function may take, whatever its task says; 0 for any."""
    timeout = policy_for(path, func).timeout
    return float(Conf.TIMEOUT or 0 if timeout is None else timeout)


def function_of(task: dict[str, Any]) -> Function:
    """The task's function, imported once per process. Raises what `resolve` raises."""
    func = task["func"]
    if callable(func):
        return _describe(func, task["path"])
    found = _function_at(func)
    if found.itself is run_in_order and not found.runs_alone:
        return found._replace(runs_alone=_has_call_that_runs_alone(task["args"]))
    return found


@functools.cache
def _function_at(path: str) -> Function:
    return _describe(resolve(path), path_today(path))


def _describe(func: Callable[..., Any], path: str) -> Function:
    return Function(func, inspect.iscoroutinefunction(func), runs_alone(path, func))


def _has_call_that_runs_alone(calls: Iterable[Any]) -> bool:
    try:
        return any(_function_at(path).runs_alone for path, *_ in calls)
    except Exception:  # one that can't be found or imported fails when its turn comes
        return False
