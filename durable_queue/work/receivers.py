"""Django-q2's signals around a task. Writes of their receivers get call indexes of their own, never a call of the task."""

from contextlib import nullcontext
from typing import Any

from django_q.signals import post_execute_in_worker, pre_execute

from durable_queue.task.running import AFTER, current_task


class Timer:
    """What django-q2's worker loop takes for a shared `multiprocessing.Value`; ours is nobody else's."""

    value: float = -1

    def get_lock(self) -> Any:
        """No lock: one that is shared dies with its holder. The loop asks for it right after the call."""
        if post_execute_in_worker.receivers and (task := current_task.get()):
            task.call = AFTER
        return nullcontext()


def _begin_call(**_: object) -> None:
    """The last receiver of `pre_execute`: the call comes next."""
    if task := current_task.get():
        task.call = 0


def has_receivers_before() -> bool:
    """Whether `pre_execute` has receivers; then `_begin_call` comes after all of them."""
    if not pre_execute.receivers:
        return False
    if pre_execute.receivers[-1][1] is not _begin_call:
        pre_execute.disconnect(_begin_call)
        pre_execute.connect(_begin_call, weak=False)
    return True
