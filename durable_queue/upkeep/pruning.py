"""Prune old rows in small batches: workers and clients should not wait long for the database."""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.db import DataError, IntegrityError, connections, transaction
from django.db import Error as DatabaseError
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from django_q.conf import Conf, logger
from django_q.models import OrmQ, Success, Task

from durable_queue.conf import cluster_conf
from durable_queue.models import Cancellation, DeadLetter, FailedAttempt, IdempotencyKey, Note, Worker
from durable_queue.store import lookup
from durable_queue.store.databases import table_of
from durable_queue.task.identifiers import is_task_id
from durable_queue.work.progress import delete

BATCH = 500  # rows
PAUSE = 60  # seconds until the next pruning, if the last one found nothing
ABANDONED = 3600  # seconds after which a progress file that belongs to no worker is deleted


def prune_all(using: str) -> float:
    """Delete a batch of old history, or abandoned progress files; return the seconds until the next pruning.

    Raises django.db.Error.
    """
    if prune(cluster_conf.history, using=using):
        return 0.1
    names = set(Worker.objects.using(using).values_list("name", flat=True))
    for path in cluster_conf.run_dir.glob("*.progress"):
        with suppress(OSError):
            if path.stem not in names and time.time() - path.stat().st_mtime > ABANDONED:
                delete(path)
    return PAUSE


def prune(keep: timedelta, *, using: str) -> int:
    """Delete a batch of each kind of rows that are older than `keep`; return their number.

    What belongs to a task goes once the task is neither queued nor in the history: the attempts of a row that still waits
    are counted. Raises django.db.Error, once it has tried every kind.
    """
    before = timezone.now() - keep
    attempts = FailedAttempt.objects.using(using).exclude(Exists(OrmQ.objects.using(using).filter(pk=OuterRef("row"))))
    kinds: list[Callable[[], int]] = [
        lambda: _delete_some(Task.objects.using(using).filter(stopped__lt=before)),
        lambda: _delete_with_task(attempts, "stopped", before),
        lambda: _delete_with_task(DeadLetter.objects.using(using), "at", before),
        lambda: _delete_with_task(Note.objects.using(using), "at", before),
        lambda: _delete_with_task(Cancellation.objects.using(using), "requested", before),
        lambda: _prune_to_save_limit(using),
        lambda: _prune_keys(using),
    ]
    pruned, failure = 0, None
    for prune_kind in kinds:
        try:
            pruned += prune_kind()
        except DatabaseError as error:
            failure = failure or error
    if failure:
        raise failure
    return pruned


def _prune_to_save_limit(using: str) -> int:
    """Apply django-q2's `save_limit`, if it is set: keep this number of successes, the newest."""
    if Conf.SAVE_LIMIT <= 0 or Conf.SAVE_LIMIT_PER:
        return 0
    successes = Success.objects.using(using).order_by("-stopped")
    oldest_kept: datetime | None = successes.values_list("stopped", flat=True)[Conf.SAVE_LIMIT - 1 : Conf.SAVE_LIMIT].first()
    return _delete_some(successes.filter(stopped__lt=oldest_kept)) if oldest_kept else 0


def _prune_keys(using: str) -> int:
    """Delete a batch of idempotency keys that are as good as none, by the clock that made them."""
    old = IdempotencyKey.objects.using(using).filter(at__lt=table_of(connections[using]).present() - cluster_conf.idempotency)
    ids = list(old.order_by("at").values_list("pk", flat=True)[:BATCH])
    with transaction.atomic(using=using):
        # A request may take one of them meanwhile, and renew it: those that are still old, and that nobody is about to take.
        free = list(old.filter(pk__in=ids).select_for_update(skip_locked=True).values_list("pk", flat=True))
        return int(old.filter(pk__in=free).delete()[0])


def _delete_with_task(rows: QuerySet[Any], at: str, before: datetime) -> int:
    """Delete a batch of rows from before that moment, by their column `at`, whose tasks are gone."""
    old = rows.filter(**{f"{at}__lt": before}).exclude(Exists(Task.objects.using(rows.db).filter(pk=OuterRef("task_id"))))
    table, further = table_of(connections[rows.db]), Q()
    while found := list(old.filter(further).order_by(at, "pk").values_list("pk", "task_id", at)[:BATCH]):
        # Queued again, under another row: only the payload has the id.
        gone = lookup.ended(table, {task_id for _, task_id, _ in found if is_task_id(task_id)})
        ids = [pk for pk, task_id, _ in found if task_id in gone or not is_task_id(task_id)]
        if ids:
            return _delete(rows, ids)
        last, _, moment = found[-1]
        further = Q(**{f"{at}__gt": moment}) | Q(**{at: moment}, pk__gt=last)
    return 0


def _delete_some(rows: QuerySet[Any]) -> int:
    refused = 0
    while ids := list(rows.order_by().values_list("pk", flat=True)[refused : refused + BATCH]):
        if deleted := _delete(rows, ids):
            return deleted
        refused += len(ids)  # a receiver or a foreign key may object to a whole batch, and not to the next
    return 0


def _delete(rows: QuerySet[Any], ids: list[Any]) -> int:
    """Delete the rows with these keys; one by one, where that fails: a project's receiver or foreign key may object to one."""
    try:
        return _delete_at_once(rows, ids) if ids else 0
    except DatabaseError as error:
        if not isinstance(error, DataError | IntegrityError):
            raise
    except Exception:
        logger.exception("Old %s can't be deleted together", rows.model._meta.verbose_name_plural)
    deleted = 0
    for key in ids:
        try:
            deleted += _delete_at_once(rows, [key])
        except Exception as error:
            logger.warning("%s %s can't be deleted: %r", rows.model._meta.verbose_name, key, error)
    return deleted


def _delete_at_once(rows: QuerySet[Any], ids: list[Any]) -> int:
    everything = rows.model._base_manager.using(rows.db)
    with transaction.atomic(using=rows.db):
        # What others have locked, on PostgreSQL, is left to the next time: they may keep it for long.
        free = list(everything.filter(pk__in=ids).select_for_update(skip_locked=True).values_list("pk", flat=True))
        return int(everything.filter(pk__in=free).delete()[0])
