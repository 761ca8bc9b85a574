"""Hooks: functions that are called with a task once it has ended (https://django-q2.readthedocs.io/en/master/tasks.html#hook).

django-q2 calls them whenever a history row is saved, so never for what is kept elsewhere or not at all, and again for a row
that a hook saves. It finds none that is a method.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django_q.conf import logger
from django_q.models import Task
from django_q.utils import get_func_repr

from durable_queue.task.calls import resolve

Hook = str | Callable[..., Any]

_is_in_hook: ContextVar[bool] = ContextVar("_is_in_hook", default=False)


def usable(hook: object) -> Hook | None:
    """The hook, if it can be called or names something; None for none, and for garbage, which harms nobody. Never raises."""
    try:
        if isinstance(hook, str):
            return str(hook) or None
        if callable(hook) and get_func_repr(hook):  # the history keeps that
            return hook
    except Exception:
        logger.exception("A hook can't be shown, and is not called")
        return None
    if hook is not None:
        logger.error("A %s is no hook: give a function, or its dotted path", type(hook).__name__)
    return None


def call(task: Task) -> None:
    """Call the hook of a task that has ended. Raises LookupError if there is no such function, and what the hook raises."""
    hook = task.hook
    if not callable(hook):
        hook = resolve(str(hook))
    token = _is_in_hook.set(True)
    try:
        hook(task)
    finally:
        _is_in_hook.reset(token)


@contextmanager
def outside() -> Iterator[None]:
    """In a hook, another task runs (`sync=True`): the row that is saved for that is no row of the hook."""
    token = _is_in_hook.set(False)
    try:
        yield
    finally:
        _is_in_hook.reset(token)


def call_and_log(task: Task) -> None:
    """The same in a process that isn't ours to end: what goes wrong is logged."""
    try:
        call(task)
    except (Exception, SystemExit):
        logger.exception("The hook %s of %s (%s) has failed", task.hook, task.name, task.func)


def call_after_save(sender: type[Task], instance: Task, *, created: bool = False, raw: bool = False, **kwargs: Any) -> None:
    """A receiver of `post_save`: somebody has put a task into the history that has just ended, as `sync=True` does.

    Not for a row that is changed, that comes from a fixture, or that a hook saves.
    """
    if instance.hook and created and not raw and not _is_in_hook.get():
        call_and_log(instance)
