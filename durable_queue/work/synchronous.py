"""Tasks with `sync=True`: django-q2's own loop runs them in the caller's process. Their hooks are called here as elsewhere."""

from typing import Any

from django_q.conf import Conf
from django_q.models import Task
from django_q.signals import post_execute
from django_q.utils import get_func_repr

from durable_queue.task import hooks
from durable_queue.task.originals import original


def _sync(pack: str) -> str:
    """Run a payload's task; return its id. Raises what the task raises."""
    ended: list[dict[str, Any]] = []

    def note(sender: object, task: dict[str, Any], **kwargs: Any) -> None:
        ended.append(task)  # other threads may send the signal too

    post_execute.connect(note, weak=False)
    try:
        with hooks.outside():
            task_id = str(original("_sync")(pack))
    finally:
        post_execute.disconnect(note)
    for task in ended:
        if task["id"] == task_id and not _is_kept(task) and (hook := hooks.usable(task.get("hook"))):
            hooks.call_and_log(_as_row(task, hook))
    return task_id


def _is_kept(task: dict[str, Any]) -> bool:
    """Whether the history keeps it: then its hook was called when it was saved."""
    return not task.get("cached") and (not task["success"] or task.get("save", Conf.SAVE_LIMIT >= 0))


def _as_row(task: dict[str, Any], hook: hooks.Hook) -> Task:
    names = ("id", "name", "args", "kwargs", "started", "stopped", "result", "success")
    optional = {name: task.get(name) for name in ("group", "cluster")}
    func = get_func_repr(task["func"])
    return Task(**{name: task[name] for name in names}, **optional, func=func, hook=hook, attempt_count=1)
