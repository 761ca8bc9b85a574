"""Verbs: what a user can do to a task. A failed task that is submitted again keeps its id: no write is made twice."""

from typing import Any

from django.db import transaction
from django_q.models import Failure

from durable_queue.intake import packaging
from durable_queue.models import DeadLetter
from durable_queue.store.broker import Broker
from durable_queue.task import signing


class NotKeptError(Exception):
    """The history holds too little of the task to run it again."""


def submit_again(task_id: str) -> bool:
    """Move a failed task from the history back into its queue. Return whether this call did it: of several, only one does.

    The task keeps its id, name, function, arguments, group and hook. The history has no columns for its other options (its
    own timeout, `save`, a chain): the configured ones apply. The payload of a refused task goes back as it was.

    Raises NotKeptError and django.db.Error. Then nothing has changed.
    """
    using = Broker().using
    failures, letters = Failure.objects.using(using).filter(pk=task_id), DeadLetter.objects.using(using).filter(task_id=task_id)
    with transaction.atomic(using=using):
        task = failures.first()
        if task is None:
            return False
        letter = letters.order_by("pk").last()
        queue, payload = (letter.queue, letter.payload) if letter else (task.cluster, signing.dumps(_task_of(task)))
        if not failures.delete()[0]:
            return False  # another call was faster
        letters.delete()
        Broker(queue).enqueue(payload)
    return True


def _task_of(failure: Failure) -> dict[str, Any]:
    """The failed task as `django_q.tasks.async_task` would make it, but with its old id."""
    args, kwargs = failure.args or (), failure.kwargs or {}
    if not isinstance(args, tuple | list) or not isinstance(kwargs, dict):
        # A column that can't be unpickled gives its text instead of a value.
        raise NotKeptError(f"The arguments of {failure.name} can't be unpickled any more.")
    options = {"hook": failure.hook, "group": failure.group}
    task = packaging.new_task(failure.func, tuple(args), kwargs, name=failure.name)
    return task | {name: value for name, value in options.items() if value is not None} | {"id": failure.id}
