"""Queue one call: what `django_q.tasks.async_task` does, for callers whose keyword arguments are all the function's own.

`async_task` takes `group`, `timeout`, `save` … out of them (django_q/tasks.py), and needs twice the time.
"""

import functools
from typing import Any

from django.utils import timezone
from django_q.conf import Conf
from django_q.signals import pre_enqueue
from django_q.tasks import _sync

from notifications.cluster import signing
from notifications.cluster.broker import Broker
from notifications.cluster.identifiers import new_task_id

# What `Q_CLUSTER` says of all tasks.
DEFAULTS = {"cached": Conf.CACHED, "sync": Conf.SYNC, "ack_failure": Conf.ACK_FAILURES}


@functools.cache
def broker() -> Broker:
    """This process's broker."""
    return Broker()


def package(func: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str) -> dict[str, Any]:
    """A task as django-q2 keeps it in a queue row; its options may be added (`group`, `hook`, `timeout` …)."""
    task = {"id": new_task_id(), "name": name, "func": func, "args": args}
    task |= {option: value for option, value in DEFAULTS.items() if value}
    return task | {"kwargs": kwargs, "started": timezone.now()}


def enqueue(func: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str) -> str:
    """Queue a call of the function with this dotted path; return the task's id.

    Raises django.db.Error, and what pickle raises for arguments that it can't take; nothing is queued then.
    """
    task = package(func, args, kwargs, name=name)
    pre_enqueue.send(sender="django_q", task=task)
    payload = signing.dumps(task)
    if task.get("sync"):
        _sync(payload)
    else:
        broker().enqueue(payload)
    return str(task["id"])
