"""Verbs: what a user can do to a task. A failed task that is submitted again keeps its id: no write is made twice."""

import pickle
from binascii import a2b_base64
from typing import Any

from django.db import transaction
from django.db.models import TextField
from django.db.models.functions import Cast
from django_q.models import Failure

from durable_queue.intake import packaging
from durable_queue.models import DeadLetter
from durable_queue.store.broker import Broker
from durable_queue.task import preview, signing
from durable_queue.task.identifiers import BadIdError, is_task_id


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
        # Not as Django would load them: that unpickles each value in this process, and runs what it holds.
        pickled = {f"pickled_{name}": Cast(name, TextField()) for name in ("args", "kwargs")}
        task = failures.defer("args", "kwargs", "result").annotate(**pickled).first()
        if task is None:
            return False
        letter = letters.order_by("pk").last()
        queue, payload = (letter.queue, letter.payload) if letter else (task.cluster, signing.dumps(_task_of(task)))
        if not failures.delete()[0]:
            return False  # another call was faster
        letters.delete()
        Broker(queue).enqueue_all([payload], as_they_are=True)
    return True


class _Pickled:
    """A value of the history, which stays pickled until a worker reads it."""

    def __init__(self, text: str) -> None:
        self._content = a2b_base64(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._content,)


def _task_of(failure: Any) -> dict[str, Any]:
    """The failed task as `django_q.tasks.async_task` would make it, but with its old id."""
    if not is_task_id(failure.id):
        raise NotKeptError(str(BadIdError(failure.id)))
    args, kwargs = _checked(failure, failure.pickled_args, tuple, list), _checked(failure, failure.pickled_kwargs, dict)
    options = {"hook": failure.hook, "group": failure.group}
    task = packaging.new_task(failure.func, args, kwargs, name=failure.name)
    return task | {name: value for name, value in options.items() if value is not None} | {"id": failure.id}


def _checked(failure: Failure, pickled: str | None, *kinds: type) -> Any:
    """The value, as it is pickled; raises NotKeptError where it is seen that it is no such value."""
    value = preview.read_stored(pickled)
    if value is None:
        return kinds[0]()
    if not isinstance(value, kinds) and len(pickled or "") <= preview.STORED:
        raise NotKeptError(f"The arguments of {failure.name} can't be unpickled any more.")
    return _Pickled(pickled or "")
