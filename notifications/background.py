"""FastAPI's BackgroundTasks, made durable: the calls of one request become one entry of the queue."""

import functools
import inspect
import pydoc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import async_to_sync
from django_q.models import Task

from notifications.cluster import queueing
from notifications.cluster.running import current_task

# A call as the queue holds it: the function's dotted path, its positional and its keyword arguments.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]

NAME_LENGTH = Task._meta.get_field("name").max_length or 100


@dataclass(kw_only=True)
class BackgroundTasks:
    """The calls that a request leaves behind, to be run in order by a worker.

    As in FastAPI, `add_task` only notes a call. `enqueue` then commits them all to the queue, or none:

        tasks = BackgroundTasks(name="welcome alice")
        tasks.add_task(send_mail, "alice@example.com", subject="Welcome")
        tasks.enqueue()
    """

    name: str = ""
    calls: list[Call] = field(default_factory=list)

    def add_task(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Note a call of `func(*args, **kwargs)`; the arguments must be picklable.

        Raises TypeError for a function that a worker could not find again: a lambda, a nested function, a bound method,
        one of the program that was started (`__main__`), which in a worker is another.
        """
        self.calls.append((_path(func), args, kwargs))

    def enqueue(self) -> str | None:
        """Commit the calls to the queue, as one entry; return its task id, or None when there are none.

        Inside a transaction the entry is committed, or rolled back, with it. Raises django.db.Error when the
        queue can't be written to, and what pickle raises for an argument that it can't take (TypeError,
        pickle.PicklingError, AttributeError …); either leaves nothing behind.
        """
        return queueing.enqueue(*self._entry(), name=self._title()) if self.calls else None

    async def aenqueue(self) -> str | None:
        """The same for an `async` view, in a transaction that what others queue at this moment may share."""
        return await queueing.aenqueue(*self._entry(), name=self._title()) if self.calls else None

    def _entry(self) -> Call:
        if len(self.calls) == 1:
            return self.calls[0]
        return IN_ORDER, tuple(self.calls), {}

    def _title(self) -> str:
        name = self.name or ", ".join(path.rpartition(".")[2] for path, _, _ in self.calls)
        return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


@functools.cache
def _path(func: Callable[..., Any]) -> str:
    """The dotted path under which a worker finds the function. Raises TypeError when it doesn't."""
    path = f"{getattr(func, '__module__', None)}.{getattr(func, '__qualname__', func)}"
    if path.startswith("__main__.") or pydoc.locate(path) is not func:
        raise TypeError(f"A worker can't import {path}: add a function that is defined at the top of a module.")
    return path


def run_in_order(*calls: Call) -> list[Any] | None:
    """What a worker runs for an entry of several calls: each in turn; one that raises keeps the later ones from running.

    Returns what they returned, for the history; None when none of them had anything to say.
    """
    task = current_task.get()
    own = task if task and task.enter_calls(IN_ORDER) else None
    results = []
    for index, (path, args, kwargs) in enumerate(calls):
        func = pydoc.locate(path)
        if own:
            own.begin_call(index, path, func)
        if not callable(func):
            raise LookupError(f"There is no function {path}")
        if inspect.iscoroutinefunction(func):
            func = async_to_sync(func)
        results.append(func(*args, **kwargs))
    return results if any(result is not None for result in results) else None


IN_ORDER = f"{run_in_order.__module__}.{run_in_order.__qualname__}"
