"""What follows a task that has ended: its cached result, its chain's next step, the hook of one that no worker calls it for."""

import functools
import pickle
from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django_q.conf import logger
from django_q.exceptions import TimeoutException
from django_q.models import Task
from django_q.tasks import async_chain

from durable_queue.store.broker import Broker
from durable_queue.store.leases import Settlement
from durable_queue.store.rows import LENGTHS, HistoryRow, text_of
from durable_queue.task import hooks, signing
from durable_queue.task.identifiers import new_task_id
from durable_queue.task.policy import HOOK, alone
from durable_queue.task.text import storable
from durable_queue.work import cached_results

NAME_LENGTH = Task._meta.get_field("name").max_length
NAMES = [field.name for field in Task._meta.concrete_fields]


def follow_up(broker: Broker, ended: Sequence[Settlement]) -> None:
    """Keep cached results, queue the next steps of chains, and the hooks of tasks that were cancelled before they began.

    All within the transaction that settles these tasks.

    Raises django.db.Error.
    """
    broker = broker.home()
    _lock_groups(broker, ended)
    for settlement in ended:
        task = settlement.task
        if task.get("hook") and not settlement.begun:
            queue_hook(broker, settlement.history())
        if task.get("cached"):
            whole = _keep_cached(broker, task)
            if whole and not whole["cached"]:
                broker.table.save_history([settlement._replace(task=whole).history()])
        if task.get("chain") and task["success"]:
            # Unlike stock django-q2, which goes on after a failure, and once more for each retry. A copy, for it is
            # shortened, and this transaction may be rolled back and done again.
            chain = list(task["chain"])
            async_chain(chain, group=task.get("group"), cached=task.get("cached", False), sync=False, broker=broker)


def queue_hook(broker: Broker, ended: HistoryRow) -> None:
    """Have a worker call the hook of a task that was lost, or cancelled unrun: the process that ends it must never hang.

    The hook gets the task as it is here, since it may be kept nowhere. No receiver of `pre_enqueue` is told. Raises
    django.db.Error.
    """
    name = text_of(f"hook of {ended.name}", NAME_LENGTH)
    task: dict[str, Any] = {"id": new_task_id(), "name": name, "func": HOOK, "kwargs": {}, "save": False}
    text = dict(zip(NAMES, ended, strict=False)) | {"args": (), "kwargs": {}}
    text |= {column: text_of(text[column], length) for column, length in LENGTHS.items()}
    try:
        # For `call_hook_of` to unpickle: whoever claims the row does not run alone yet, and has to read it.
        arguments = pickle.dumps((ended.args, ended.kwargs))
    except Exception:  # pickling runs code of others
        logger.exception("The hook %s of %s gets no arguments", text["hook"], ended.name)
        arguments = None
    broker.enqueue(signing.dumps({**task, "args": (ended.id, text, arguments)}))


@alone
def call_hook_of(task_id: str, fields: dict[str, Any] | None = None, arguments: bytes | None = None) -> None:
    """Call the hook of a task that was lost, or cancelled unrun.

    At most once: in one attempt (`policy.HOOK`), and alone, so that whoever finds its worker dead knows what it had in hand.
    `fields`: of the task. Rows of version 0.1 lack them: then the task is kept. `arguments`: the pickle of `args` and `kwargs`.
    """
    if fields and arguments:
        try:
            fields["args"], fields["kwargs"] = pickle.loads(arguments)  # noqa: S301 - this queue has pickled and signed it
        except TimeoutException:
            raise
        except (Exception, SystemExit):
            logger.exception("The hook %s of %s gets no arguments: they can't be unpickled", fields["hook"], fields["name"])
    task = Task(**fields) if fields else Task.objects.filter(pk=task_id).first()
    if task:
        hooks.call(task)


def _lock_groups(broker: Broker, ended: Sequence[Settlement]) -> None:
    """Let one transaction at a time add to a group's cached results."""
    groups = {storable(str(settlement.task.get("group"))) for settlement in ended if settlement.task.get("cached")}
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
