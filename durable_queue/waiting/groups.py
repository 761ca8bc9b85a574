"""`result_group`, `fetch_group`, `count_group` and `delete_group`.

Documented at https://django-q2.readthedocs.io/en/master/group.html. `wait` is in milliseconds, below 0 for as long as anything
can still come. `count`: wait until so many tasks of the group have ended, or more; with `wait=0`, as long as below 0.
"""

from collections.abc import Callable
from typing import Any

from django_q.brokers import get_broker
from django_q.conf import Conf

from durable_queue.waiting import queued_here
from durable_queue.waiting.database import of_group
from durable_queue.waiting.ends import GroupEnd
from durable_queue.waiting.kept import InCache, InHistory, Kept
from durable_queue.waiting.looks import looks


def result_group(
    group_id: str, failures: bool = False, wait: float = 0, count: int | None = None, cached: Any = Conf.CACHED
) -> Any:
    """Return the results of a group's tasks, without those that failed unless `failures` is set; None if there are none.

    When the time is up, or nothing can come any more, these are the results that there are. Raises django.db.Error.
    """
    kept = InCache(group_id, get_broker()) if cached else InHistory(group_id)
    return wait_for_group(group_id, kept, lambda: kept.results(failures=failures), wait, count)


def fetch_group(
    group_id: str, failures: bool = True, wait: float = 0, count: int | None = None, cached: Any = Conf.CACHED
) -> Any:
    """Return the tasks of a group that have ended, without those that failed if `failures` isn't set. As `result_group`."""
    kept = InCache(group_id, get_broker()) if cached else InHistory(group_id)
    return wait_for_group(group_id, kept, lambda: kept.tasks(failures=failures), wait, count)


def result_group_cached(
    group_id: str, failures: bool = False, wait: float = 0, count: int | None = None, broker: Any = None
) -> Any:
    """The same as `result_group`, from the cache. `broker`: of the tasks' queue, if that isn't the configured one."""
    kept = InCache(group_id, broker or get_broker())
    return wait_for_group(group_id, kept, lambda: kept.results(failures=failures), wait, count)


def fetch_group_cached(
    group_id: str, failures: bool = True, wait: float = 0, count: int | None = None, broker: Any = None
) -> Any:
    """The same as `fetch_group`, from the cache. `broker`: of the tasks' queue, if that isn't the configured one."""
    kept = InCache(group_id, broker or get_broker())
    return wait_for_group(group_id, kept, lambda: kept.tasks(failures=failures), wait, count)


def count_group(group_id: str, failures: bool = False, cached: Any = Conf.CACHED) -> int | None:
    """How many tasks of a group have ended and are kept, or of these, how many failed. Raises django.db.Error."""
    if cached:
        return count_group_cached(group_id, failures)
    tasks = of_group(group_id)
    return tasks.filter(success=False).count() if failures else tasks.count()


def count_group_cached(group_id: str, failures: bool = False, broker: Any = None) -> int | None:
    """The same in the cache; None for a group of which it holds nothing."""
    return InCache(group_id, broker or get_broker()).count(failures=failures)


def delete_group(group_id: str, tasks: bool = False, cached: Any = Conf.CACHED) -> Any:
    """Take the group's name off its tasks, or delete them if `tasks` is set; return what the query set's method does.

    Nothing happens to a group that has no tasks. Raises django.db.Error.
    """
    queued_here.forget(queued_here.name_of(group_id) or "")
    if cached:
        return delete_group_cached(group_id)
    found = of_group(group_id)
    return found.delete() if tasks else found.update(group=None)


def delete_group_cached(group_id: str, broker: Any = None) -> None:
    """Delete the group and its tasks from the cache, if they are there."""
    InCache(group_id, broker or get_broker()).delete()


def wait_for_group(  # noqa: PLR0913 - what the callers ask for
    group: object, kept: Kept, take: Callable[[], Any], wait: float, count: int | None, *, is_chain: bool = False
) -> Any:
    """What `take` gives once the group has come so far, or the time is up, or nothing can come any more."""
    if count and not wait:
        wait = -1
    end = GroupEnd(group, count, is_chain=is_chain)
    for _ in looks(wait, in_database=isinstance(kept, InHistory)):
        ended = kept.ended() if count else 0
        if not count and (found := take()) is not None:
            return found
        if count and ended >= count:
            break
        if wait and end.is_over(ended):
            break
    return take()
