"""Verbs: actions of people on tasks. Submitting a failed task again keeps its id, so that no write is made twice."""

from typing import Any

from django.db import transaction
from django_q.models import Failure

from durable_queue.intake import packaging
from durable_queue.models import DeadLetter
from durable_queue.store.broker import Broker
from durable_queue.task import signing


class NotKeptError(Exception):
    """History holds too little of the task to run it again."""


def submit_again(task_id: str) -> bool:
    """Take a failed task out of history and put it into its queue; return whether this call did: of several, one does.

    It keeps its id, name, function, arguments, group and hook. History has no place for its other options (its own
    timeout, `save`, a chain): the configured ones hold. A row that could not be run goes back just as it was.

    Raises NotKeptError, and django.db.Error; then nothing has happened.
    """
    using = Broker().using
    failures, letters = Failure.objects.using(using).filter(pk=task_id), DeadLetter.objects.using(using).filter(task_id=task_id)
    with transaction.atomic(using=using):
        task = failures.first()
        if task is None:
            return False
        letter = letters.order_by("pk").last()
        queue, payload = (letter.queue, letter.payload) if letter else (task.cluster, signing.dumps(_package(task)))
        if not failures.delete()[0]:
            return False  # another call was quicker
        letters.delete()
        Broker(queue).enqueue(payload)
    return True


def _package(task: Failure) -> dict[str, Any]:
    """A task package as `django_q.tasks.async_task` makes it, save that the id isn't a new one."""
    args, kwargs = task.args or (), task.kwargs or {}
    if not isinstance(args, tuple | list) or not isinstance(kwargs, dict):
        # What can't be unpickled comes out of history's columns as the text that it is.
        raise NotKeptError(f"The arguments of {task.name} can't be unpickled any more.")
    options = {"hook": task.hook, "group": task.group}
    package = packaging.package(task.func, tuple(args), kwargs, name=task.name)
    return package | {name: value for name, value in options.items() if value is not None} | {"id": task.id}
