"""What follows a task that has ended: its cached result, its chain's next step, the hook of one whose worker was killed."""

import functools
from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django_q.conf import logger
from django_q.models import Task
from django_q.signals import call_hook
from django_q.tasks import async_chain, async_task

from durable_queue.store.broker import Broker
from durable_queue.store.leases import Settlement
from durable_queue.work import cached_results

NAME_LENGTH = Task._meta.get_field("name").max_length
HOOK = "durable_queue.work.follow_ups.call_hook_of"


def follow_up(broker: Broker, ended: Sequence[Settlement]) -> None:
    """Keep cached results, and queue the next steps of chains, within the transaction that settles these tasks.

    Raises django.db.Error.
    """
    broker = broker.home()
    _lock_groups(broker, ended)
    for settlement in ended:
        task = settlement.task
        if task.get("cached"):
            whole = _keep_cached(broker, task)
            if whole and not whole["cached"]:
                broker.table.save_history([settlement._replace(task=whole).history()])
        if task.get("chain") and task["success"]:
            # Unlike stock django-q2, which goes on after a failure, and once more for each retry. A copy, for it is
            # shortened, and this transaction may be rolled back and done again.
            chain = list(task["chain"])
            async_chain(chain, group=task.get("group"), cached=task.get("cached", False), sync=False, broker=broker)


def queue_hook(broker: Broker, task: Task) -> None:
    """Have a worker call the hook of a task whose own worker was killed: the process that frees leases must never hang."""
    async_task(HOOK, task.id, task_name=f"hook of {task.name}"[:NAME_LENGTH], save=False, broker=broker)


def call_hook_of(task_id: str) -> None:
    """Call the hook of a task that is kept."""
    if task := Task.objects.filter(pk=task_id).first():
        call_hook(sender=Task, instance=task)


def _lock_groups(broker: Broker, ended: Sequence[Settlement]) -> None:
    """Let one transaction at a time add to a group's cached results."""
    groups = {str(settlement.task.get("group")) for settlement in ended if settlement.task.get("cached")}
    for group in sorted(groups):  # the same order for all, so that no two wait for each other
        broker.table.lock_group(f"{broker.queue}:{group}")


def _keep_cached(broker: Broker, task: dict[str, Any]) -> dict[str, Any] | None:
    """Keep a result in the cache; return the task that stands for all of an `Iter`, when this was the last of it.

    No database error of this transaction may come by in here, where it would be taken for the cache's.
    """
    cache, queue = broker.cache, broker.queue
    try:
        cached_results.keep(task, cache=cache, queue=queue)
        whole = cached_results.collate(task, cache=cache, queue=queue)
        if whole and whole["cached"]:
            cached_results.keep(whole, cache=cache, queue=queue)
    except Exception:  # the cache is down: as in django-q2, that costs the result
        logger.exception("The result of '%s' (%s) could not be cached", task["path"], task["name"])
        return None
    if whole:
        forget = functools.partial(cached_results.forget, task["group"], cache=cache, queue=queue)
        transaction.on_commit(forget, using=broker.using, robust=True)
    return whole
