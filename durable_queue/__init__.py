"""A durable task queue for Django, on the tables of django-q2. What stands here is its public API.

`BackgroundTasks` queues the calls of a request. `retry` gives a function its own retry policy; `alone`
has its tasks run in a process in which no other task runs. `current_task` tells a running
function which task it is part of. `run_in_order` is the function of a task that has several calls. `worker_started` is the
signal that each new worker sends.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_queue.intake.background_tasks import BackgroundTasks
    from durable_queue.signals import worker_started
    from durable_queue.task.calls import run_in_order
    from durable_queue.task.policy import alone, retry
    from durable_queue.task.running import current_task

__all__ = ["BackgroundTasks", "alone", "current_task", "retry", "run_in_order", "worker_started"]

_HOMES = {
    "BackgroundTasks": "durable_queue.intake.background_tasks",
    "alone": "durable_queue.task.policy",
    "current_task": "durable_queue.task.running",
    "retry": "durable_queue.task.policy",
    "run_in_order": "durable_queue.task.calls",
    "worker_started": "durable_queue.signals",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and not before: an app's package is imported before its models can be (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
