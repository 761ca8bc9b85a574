"""Make a task's payload and enqueue it, as `django_q.tasks.async_task` does, but all keyword arguments are the function's.

`async_task` takes `group`, `timeout`, `save` … out of them (django_q/tasks.py), and needs twice the time.
"""

import functools
from typing import Any

from asgiref.sync import sync_to_async
from django.utils import timezone
from django_q.conf import Conf
from django_q.signals import pre_enqueue
from django_q.tasks import _sync

from durable_queue.intake import group_commit
from durable_queue.store.broker import Broker
from durable_queue.task import signing
from durable_queue.task.identifiers import new_task_id

# What `Q_CLUSTER` says of all tasks.
DEFAULTS = {"cached": Conf.CACHED, "sync": Conf.SYNC, "ack_failure": Conf.ACK_FAILURES}
OPTIONS = {option: value for option, value in DEFAULTS.items() if value}


@functools.cache
def broker() -> Broker:
    """This process's broker."""
    return Broker()


def package(func: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str) -> dict[str, Any]:
    """A task as django-q2 keeps it in a queue row; its options may be added (`group`, `hook`, `timeout` …).

    Without `started`, which in django-q2 is when it was queued: row and id tell that too, and `outcomes.read` puts it in. To
    pickle a moment with its time zone takes as long as all the rest.
    """
    return {"id": new_task_id(), "name": name, "func": func, "args": args, "kwargs": kwargs, **OPTIONS}


def enqueue(func: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str) -> str:
    """Queue a call of the function with this dotted path; return the task's id.

    Raises django.db.Error, and what pickle raises for arguments that it can't take; nothing is queued then.
    """
    task, payload = _packed(func, args, kwargs, name)
    if task.get("sync"):
        _sync(payload)
    else:
        broker().enqueue(payload)
    return str(task["id"])


async def aenqueue(func: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str) -> str:
    """The same in an event loop, committed together with what others queue at this moment, and in no caller's transaction."""
    task, payload = _packed(func, args, kwargs, name)
    if task.get("sync"):
        await sync_to_async(_sync)(payload)
    else:
        await group_commit.enqueue(broker(), payload)
    return str(task["id"])


def _packed(func: str, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    task = package(func, args, kwargs, name=name)
    pre_enqueue.send(sender="django_q", task=task)
    if task.get("sync"):
        task.setdefault("started", timezone.now())  # no worker of ours will
    return task, signing.dumps(task)
