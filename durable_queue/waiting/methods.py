"""The methods by which `Chain`, `Iter` and `AsyncTask` wait, in the queue that they were started in.

Documented at https://django-q2.readthedocs.io/en/master/chain.html, `iterable.html` and `tasks.html#async-task`. Each returns
None if it was not started, and takes `wait` as the functions do.
"""

from collections.abc import Callable
from typing import Any

from django_q.brokers import get_broker

from durable_queue.waiting.groups import fetch_group, fetch_group_cached, result_group, result_group_cached, wait_for_group
from durable_queue.waiting.kept import InCache, InHistory, Kept
from durable_queue.waiting.tasks import fetch, fetch_cached, result, result_cached


def chain_result(self: Any, wait: float = 0) -> Any:
    """Return the results of the chain's tasks, once the last one has ended or one has failed."""
    return _wait_for_chain(self, wait, lambda kept: kept.results(failures=False))


def chain_fetch(self: Any, failures: bool = True, wait: float = 0) -> Any:
    """The same with the tasks themselves, without one that failed if `failures` isn't set."""
    return _wait_for_chain(self, wait, lambda kept: kept.tasks(failures=failures))


def _wait_for_chain(chain: Any, wait: float, take: Callable[[Kept], Any]) -> Any:
    if not chain.started:
        return None
    kept = InCache(chain.group, chain.broker) if chain.cached else InHistory(chain.group)
    return wait_for_group(chain.group, kept, lambda: take(kept), wait, chain.length(), is_chain=True)


def iter_result(self: Any, wait: float = 0) -> Any:
    """Return the list of the results."""
    if not self.started:
        return None
    return result_cached(self.id, wait, self.broker) if self.cached else result(self.id, wait, cached=False)


def iter_fetch(self: Any, wait: float = 0) -> Any:
    """Return the task that stands for all of them: its result is the list."""
    if not self.started:
        return None
    return fetch_cached(self.id, wait, self.broker) if self.cached else fetch(self.id, wait, cached=False)


def task_result(self: Any, wait: float = 0) -> Any:
    """Return the result of the task."""
    if not self.started:
        return None
    return result_cached(self.id, wait, _broker_of(self)) if self.cached else result(self.id, wait, cached=False)


def task_fetch(self: Any, wait: float = 0) -> Any:
    """Return the task."""
    if not self.started:
        return None
    return fetch_cached(self.id, wait, _broker_of(self)) if self.cached else fetch(self.id, wait, cached=False)


def task_result_group(self: Any, failures: bool = False, wait: float = 0, count: int | None = None) -> Any:
    """Return the results of the task's group."""
    if not (self.started and self.group):
        return None
    if self.cached:
        return result_group_cached(self.group, failures, wait, count, _broker_of(self))
    return result_group(self.group, failures, wait, count, cached=False)


def task_fetch_group(self: Any, failures: bool = True, wait: float = 0, count: int | None = None) -> Any:
    """Return the tasks of the task's group."""
    if not (self.started and self.group):
        return None
    if self.cached:
        return fetch_group_cached(self.group, failures, wait, count, _broker_of(self))
    return fetch_group(self.group, failures, wait, count, cached=False)


def _broker_of(task: Any) -> Any:
    return task.broker or get_broker(task._get_option("cluster"))
