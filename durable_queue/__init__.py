"""A durable task queue for Django, on the tables of django-q2. This module is its public API.

`BackgroundTasks` enqueues the calls of a request. `retry` gives a function its own retry policy. `alone` has its tasks run
in a process in which no other task runs. `current_task` tells a running function which task it belongs to. `run_in_order` is
the function of a task that has several calls; `done` stands for one that an earlier attempt has made. `worker_started` is
the signal that each new worker sends. `Cancelled` is what a task raises that heeds a user's request to cancel it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_queue.intake.background_tasks import BackgroundTasks
    from durable_queue.signals import worker_started
    from durable_queue.task.calls import done, run_in_order
    from durable_queue.task.cancelled import Cancelled
    from durable_queue.task.policy import alone, retry
    from durable_queue.task.running import current_task

__all__ = ["BackgroundTasks", "Cancelled", "alone", "current_task", "done", "retry", "run_in_order", "worker_started"]

_HOMES = {
    "BackgroundTasks": "durable_queue.intake.background_tasks",
    "Cancelled": "durable_queue.task.cancelled",
    "alone": "durable_queue.task.policy",
    "current_task": "durable_queue.task.running",
    "done": "durable_queue.task.calls",
    "retry": "durable_queue.task.policy",
    "run_in_order": "durable_queue.task.calls",
    "worker_started": "durable_queue.signals",
}


def __getattr__(name: str) -> Any:
    """Import a name on first use (PEP 562): Django imports this package before it can import models."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
