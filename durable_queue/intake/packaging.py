"""Make a task's payload and enqueue it, as `django_q.tasks.async_task` does.

Here all keyword arguments go to the function. `async_task` takes `group`, `timeout`, `save` … out of them as options
(django_q/tasks.py), and needs twice the time.
"""

import functools
from datetime import datetime
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.utils import timezone
from django_q.conf import Conf
from django_q.signals import pre_enqueue
from django_q.tasks import _sync

from durable_queue.intake import group_commit
from durable_queue.store.broker import Broker
from durable_queue.task import signing
from durable_queue.task.identifiers import BadIdError, is_task_id, new_task_id

# The options that `Q_CLUSTER` sets for all tasks.
DEFAULTS = {"cached": Conf.CACHED, "sync": Conf.SYNC, "ack_failure": Conf.ACK_FAILURES}
OPTIONS = {option: value for option, value in DEFAULTS.items() if value}


@functools.cache
def broker() -> Broker:
    """This process's broker."""
    return Broker()


def new_task(func: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str) -> dict[str, Any]:
    """A new task as the dict that django-q2 pickles. The caller may add options (`group`, `hook`, `timeout` …).

    It has no `started`, which in django-q2 is the time of enqueuing: pickling a moment with its time zone takes as long as
    pickling everything else. The row and the id tell that time too, and `outcomes.read` sets `started` from them.
    """
    return {"id": new_task_id(), "name": name, "func": func, "args": args, "kwargs": kwargs, **OPTIONS}


def enqueue(func: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str) -> str:
    """Enqueue a call of the function with this dotted path; return the task's id.

    Raises django.db.Error, and any exception of pickle for an argument that can't be pickled. Then nothing is enqueued.
    """
    task, payload = _packed(func, args, kwargs, name)
    if task.get("sync"):
        _sync(payload)
    else:
        broker().enqueue(payload)
    return str(task["id"])


async def aenqueue(func: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str) -> str:
    """The same in an event loop, by group commit: it never joins a transaction of the caller."""
    task, payload = _packed(func, args, kwargs, name)
    if task.get("sync"):
        await sync_to_async(_sync)(payload)
    else:
        await group_commit.enqueue(broker(), payload)
    return str(task["id"])


class Packed(NamedTuple):
    """A task that is ready to be enqueued."""

    id: str
    payload: str
    due: datetime | None = None  # by the clock that all hosts share; None: now


def packed(  # noqa: PLR0913 - a task has that many parts
    func: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str, options: dict[str, Any], queued: datetime
) -> Packed:
    """A task with options of `async_task`, for another process to run: it is never run here, whatever `sync` says.

    `queued`: now, whenever its row is due. Sends `pre_enqueue`: raises what its receivers raise, and what pickle raises.
    """
    task = {**new_task(func, args, kwargs, name=name), **options, "started": queued}
    task.pop("sync", None)
    pre_enqueue.send(sender="django_q", task=task)
    if not is_task_id(task["id"]):
        raise BadIdError(task["id"])
    task.pop("sync", None)
    return Packed(str(task["id"]), signing.dumps(task))


def _packed(func: str, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    task = new_task(func, args, kwargs, name=name)
    pre_enqueue.send(sender="django_q", task=task)
    if not is_task_id(task["id"]):  # a receiver has changed it
        raise BadIdError(task["id"])
    if task.get("sync"):
        task.setdefault("started", timezone.now())  # no worker of ours will read the payload and set it
    return task, signing.dumps(task)
