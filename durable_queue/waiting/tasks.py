"""`result` and `fetch` of one task, by its id or its name, or of an `Iter`, by its id.

Documented at https://django-q2.readthedocs.io/en/master/tasks.html#reference. `wait` is in milliseconds: 0 for one look, below
0 for as long as anything can still come.
"""

from typing import Any
from uuid import UUID

from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import Task
from django_q.signing import SignedPackage

from durable_queue.store.rows import LENGTHS, text_of
from durable_queue.task.identifiers import is_task_id
from durable_queue.waiting.database import history
from durable_queue.waiting.ends import TaskEnd
from durable_queue.waiting.kept import as_task
from durable_queue.waiting.looks import wait_for
from durable_queue.work import cached_results


def result(task_id: str | UUID, wait: float = 0, cached: Any = Conf.CACHED) -> Any:
    """Return the result of a task, or the text of its error; None if there is none.

    Raises django.db.Error, and MultipleObjectsReturned for a name that several kept tasks have.
    """
    if cached:
        return result_cached(task_id, wait)
    name = _name_of(task_id)
    found = wait_for(lambda: _one(history().values_list("result"), name), TaskEnd(name).is_over, wait)
    return found[0] if found else None


def fetch(task_id: str | UUID, wait: float = 0, cached: Any = Conf.CACHED) -> Task | None:
    """Return a task that has ended; None if there is none. Raises as `result`."""
    if cached:
        return fetch_cached(task_id, wait)
    name = _name_of(task_id)
    return wait_for(lambda: _one(history(), name), TaskEnd(name).is_over, wait)


def result_cached(task_id: str | UUID, wait: float = 0, broker: Any = None) -> Any:
    """The same as `result`, from the cache. `broker`: of the task's queue, if that isn't the configured one."""
    task = _wait_for_cached(task_id, wait, broker)
    return task["result"] if task else None


def fetch_cached(task_id: str | UUID, wait: float = 0, broker: Any = None) -> Task | None:
    """The same as `fetch`, from the cache. `broker`: of the task's queue, if that isn't the configured one."""
    task = _wait_for_cached(task_id, wait, broker)
    return as_task(task) if task else None


def _wait_for_cached(task_id: str | UUID, wait: float, broker: Any) -> dict[str, Any] | None:
    broker, name = broker or get_broker(), _name_of(task_id)
    key = cached_results.key(broker.list_key, name)
    kept = wait_for(lambda: broker.cache.get(key), TaskEnd(name).is_over_or_kept, wait, in_database=False)
    return SignedPackage.loads(kept) if kept else None


def _name_of(task_id: str | UUID) -> str:
    return task_id.hex if isinstance(task_id, UUID) else str(task_id)


def _one(tasks: Any, name: str) -> Any:
    """The task with this id, or else the one with this name."""
    found = tasks.filter(pk=name).first() if is_task_id(name) else None
    if found is not None:
        return found
    try:
        return tasks.get(name=text_of(name, LENGTHS["name"]))
    except Task.DoesNotExist:
        return None
