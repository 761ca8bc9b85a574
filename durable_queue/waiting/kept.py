"""Where the tasks of a group are kept once they have ended: in the history, or in the cache."""

from typing import Any, Protocol

from django.core.cache import BaseCache
from django_q.models import Task
from django_q.signing import SignedPackage

from durable_queue.waiting.database import of_group
from durable_queue.work import cached_results


class Kept(Protocol):
    """The tasks of a group that have ended."""

    def ended(self) -> int:
        """How many there are."""

    def results(self, *, failures: bool) -> Any:
        """Their results, with those of failed tasks or without; None if there is nothing."""

    def tasks(self, *, failures: bool) -> Any:
        """The tasks themselves; None if there is nothing."""


class InHistory:
    """Those that the history keeps."""

    def __init__(self, group: object) -> None:
        self._tasks = of_group(group)

    def ended(self) -> int:
        """How many there are."""
        return self._tasks.count()

    def results(self, *, failures: bool) -> Any:
        """Their results, as a query set."""
        return self._some(failures=failures).values_list("result", flat=True) or None

    def tasks(self, *, failures: bool) -> Any:
        """The tasks themselves, as a query set."""
        return self._some(failures=failures) or None

    def _some(self, *, failures: bool) -> Any:
        return self._tasks.all() if failures else self._tasks.exclude(success=False)


class InCache:
    """Those that the cache keeps, each for its own time."""

    def __init__(self, group: object, broker: Any) -> None:
        self._cache: BaseCache = broker.cache
        self._keys_of_group = cached_results.keys_of(broker.list_key, group)

    def ended(self) -> int:
        """How many there were."""
        return len(self._keys() or ())

    def results(self, *, failures: bool) -> Any:
        """Their results, as a list."""
        found = self._found(failures=failures)
        return None if found is None else [task["result"] for task in found]

    def tasks(self, *, failures: bool) -> Any:
        """The tasks themselves, as a list."""
        found = self._found(failures=failures)
        return None if found is None else [as_task(task) for task in found]

    def count(self, *, failures: bool) -> int | None:
        """How many are there still, or of these, how many have failed; None if nothing is known of the group."""
        found = self._found(failures=True)
        return None if found is None else sum(not (failures and task["success"]) for task in found)

    def delete(self) -> None:
        """Forget the group and its tasks."""
        self._cache.delete_many([*(self._keys() or ()), self._keys_of_group])

    def _keys(self) -> list[str] | None:
        return self._cache.get(self._keys_of_group)  # type: ignore[no-any-return]

    def _found(self, *, failures: bool) -> list[dict[str, Any]] | None:
        keys = self._keys()
        if not keys:
            return None
        kept = self._cache.get_many(keys)  # some may have expired, or been deleted
        tasks = [SignedPackage.loads(kept[key]) for key in keys if key in kept]
        return [task for task in tasks if failures or task["success"]]


def as_task(kept: dict[str, Any]) -> Task:
    """The task that the cache keeps, as the history would give it."""
    optional = {name: kept.get(name) for name in ("hook", "cluster", "group")}
    names = ("id", "name", "func", "args", "kwargs", "started", "stopped", "result", "success")
    return Task(**optional, **{name: kept[name] for name in names})
