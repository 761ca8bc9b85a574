"""Which tasks this process has queued lately. That they are in the queue no more tells that they have ended.

Of a task that nobody has seen in the queue, it can't be told: its transaction may not be committed yet. But a quick task of
which nothing is kept may have ended before anybody could look.
"""

import functools
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from django.db import connections, transaction

from durable_queue.store.rows import LENGTHS, text_of
from durable_queue.waiting.database import alias

MOST = 4096  # tasks, names and groups that are remembered, the latest of each; and tasks of a group, the first ones
LONGEST = 255  # characters of a name that is remembered


@dataclass
class _Group:
    tasks: int = 0
    is_chain: bool = False
    ids: list[str] = field(default_factory=list)  # of its tasks, if its name can't be searched for


_lock = threading.Lock()
_tasks: OrderedDict[str, None] = OrderedDict()
_names: OrderedDict[str, str] = OrderedDict()
_groups: OrderedDict[str, _Group] = OrderedDict()  # by their names in the history
_forgotten: dict[str, str] = {}  # of tasks, names and groups each: the greatest key that was forgotten


def note(task: dict[str, Any]) -> None:
    """`async_task` has queued this task. In a transaction, it is queued with the COMMIT."""
    if task.get("sync"):
        return
    name, group = task.get("name"), task.get("group")
    noted = functools.partial(
        _note,
        task["id"],
        name if _is_text(name) else None,
        name_of(group),
        is_chain=bool(task.get("chain")),
        is_searchable=is_searchable(group),
    )
    if connections[alias()].in_atomic_block:
        transaction.on_commit(noted, using=alias())
    else:
        noted()


def _is_text(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and len(name) <= LONGEST


def is_searchable(group: object) -> bool:
    """Whether the queue can be searched for a group: any other one is known by the ids of its tasks."""
    return isinstance(group, str) and len(group.encode("utf-8", "surrogatepass")) <= LONGEST


def name_of(group: object) -> str | None:
    """A group's name as the history keeps it, whatever it was when its tasks were queued."""
    return None if group is None else text_of(group, LENGTHS["group"])


def _note(task_id: str, name: str | None, group: str | None, *, is_chain: bool, is_searchable: bool) -> None:
    with _lock:
        _tasks[task_id] = None
        if name is not None:
            _names[name] = task_id
        if group is not None:
            known = _groups.setdefault(group, _Group())
            _groups.move_to_end(group)
            known.tasks += 1
            known.is_chain = known.is_chain or is_chain
            if not is_searchable and len(known.ids) < MOST:
                known.ids.append(task_id)
        for what, noted in (("tasks", _tasks), ("names", _names), ("groups", _groups)):
            while len(noted) > MOST:
                key, _ = noted.popitem(last=False)
                _forgotten[what] = max(_forgotten.get(what, ""), key)


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - the parent's may be taken
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def is_uncommitted(name: str) -> bool:
    """Whether the caller is in the transaction that queues the task with this id or name, or the group: none can run before."""
    # Django forgets a callback with the transaction, or the savepoint, that is rolled back.
    callbacks = (callback for _, callback, *_ in connections[alias()].run_on_commit)
    return any(
        isinstance(callback, functools.partial) and callback.func is _note and name in callback.args for callback in callbacks
    )


def has_queued(task_id: str) -> bool:
    """Whether this process has queued the task with this id."""
    return task_id in _tasks


def may_have_forgotten(task_id: str) -> bool:
    """Whether this process may have queued the task with this id so long ago that it has forgotten it: ids tell their time."""
    return task_id <= _forgotten.get("tasks", "")


def has_forgotten_names() -> bool:
    """Whether this process has queued tasks whose names it has forgotten."""
    return "names" in _forgotten


def has_forgotten_groups() -> bool:
    """The same of groups."""
    return "groups" in _forgotten


def ids_of(group: str) -> list[str]:
    """The ids of the tasks that this process has queued in a group that can't be searched for."""
    known = _groups.get(group)
    return list(known.ids) if known else []


def id_of(name: str) -> str | None:
    """The id of the task that this process has queued under a name, the last one if there were several."""
    return _names.get(name)


def tasks_of(group: str) -> int:
    """How many tasks of this group this process has queued."""
    known = _groups.get(group)
    return known.tasks if known else 0


def forget(group: str) -> None:
    """The group is deleted: what is queued under its name from now on is another one."""
    with _lock:
        _groups.pop(group, None)


def is_chain(group: str) -> bool:
    """Whether this process has queued a chain under this group."""
    known = _groups.get(group)
    return bool(known and known.is_chain)
