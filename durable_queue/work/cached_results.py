"""Results that go to the cache (`cached`), and those of an `Iter`, which end up as one result.

django-q2's `monitor.save_cached` counts a result twice that is kept twice, as it is when a transaction is rolled back and
done again; and it saves an `Iter` on a connection of its own, after closing the one that the transaction is on.
"""

from typing import Any

from django.core.cache import BaseCache
from django_q.signing import SignedPackage


def keep(task: dict[str, Any], *, cache: BaseCache, queue: str) -> None:
    """Keep a finished task where `result_cached` and its like look for it, for as long as `cached` says."""
    seconds = None if task["cached"] is True else task["cached"]
    cache.set(key(queue, task["id"]), SignedPackage.dumps({**task, "func": task["path"]}), seconds)
    if group := task.get("group"):
        keys = cache.get(keys_of(queue, group)) or []
        if key(queue, task["id"]) not in keys:
            cache.set(keys_of(queue, group), [*keys, key(queue, task["id"])], seconds)


def collate(task: dict[str, Any], *, cache: BaseCache, queue: str) -> dict[str, Any] | None:
    """The task that stands for all of an `Iter`, once this last one of them is kept; None as long as others are missing.

    Its result is the list of theirs, in the order in which they ended.
    """
    keys = cache.get(keys_of(queue, task.get("group"))) or []
    if not task.get("iter_count") or len(keys) < task["iter_count"]:
        return None
    kept = cache.get_many([*keys, _arguments_of(queue, task["group"])])
    arguments = kept.pop(_arguments_of(queue, task["group"]), None)
    parts = [SignedPackage.loads(kept[key]) for key in keys if key in kept]
    collated = {
        **task,
        "id": task["group"],
        "args": SignedPackage.loads(arguments) if arguments else (),
        "started": min(part["started"] for part in parts),
        "result": [part["result"] for part in parts],
        "success": all(part["success"] for part in parts),
        "cached": task.get("iter_cached"),
        "group": None,
        "iter_count": None,
    }
    if len(parts) < len(keys):
        collated |= {"success": False, "result": f"The cache has dropped {len(keys) - len(parts)} of the results."}
    return collated


def forget(group: str, *, cache: BaseCache, queue: str) -> None:
    """Delete what was kept to collate an `Iter`."""
    keys = cache.get(keys_of(queue, group)) or []
    cache.delete_many([*keys, keys_of(queue, group), _arguments_of(queue, group)])


# django-q2's names (django_q/tasks.py).


def key(queue: str, task_id: str) -> str:
    """Where a task is kept."""
    return f"{queue}:{task_id}"


def keys_of(queue: str, group: object) -> str:
    """Where the list of a group's tasks is kept."""
    return f"{queue}:{group}:keys"


def _arguments_of(queue: str, group: object) -> str:
    return f"{queue}:{group}:args"
