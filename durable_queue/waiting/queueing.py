"""`async_task`, which has this process remember what it has queued (`queued_here.py`)."""

import threading
from collections.abc import Callable
from typing import Any

from durable_queue.task.originals import original
from durable_queue.waiting import queued_here


class _Own(threading.local):
    task: dict[str, Any] | None = None  # that the running call of this thread is about to queue


_own = _Own()


def async_task(func: str | Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Queue a task; return its id. See https://django-q2.readthedocs.io/en/master/tasks.html#async-task."""
    outer, _own.task = _own.task, None
    try:
        task_id = original("async_task")(func, *args, **kwargs)
        if _own.task is not None:
            queued_here.note(_own.task)
    finally:
        _own.task = outer
    return str(task_id)


def see(task: dict[str, Any]) -> None:
    """A task is about to be queued: called by a receiver of `pre_enqueue`, which alone is shown it."""
    _own.task = task
