"""Prune old rows in small batches: workers and clients should not wait long for the database."""

import time
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Success, Task

from durable_queue.conf import cluster_conf
from durable_queue.models import DeadLetter, FailedAttempt, Note, Worker
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
    """Delete one batch of rows that are older than `keep`; return their number. Raises django.db.Error."""
    before = timezone.now() - keep
    return (
        _delete_some(Task.objects.using(using).filter(stopped__lt=before))
        + _delete_some(FailedAttempt.objects.using(using).filter(stopped__lt=before))
        + _delete_some(DeadLetter.objects.using(using).filter(at__lt=before))
        + _delete_some(Note.objects.using(using).filter(at__lt=before))
        + _prune_to_save_limit(using)
    )


def _prune_to_save_limit(using: str) -> int:
    """Apply django-q2's `save_limit`, if it is set: keep this number of successes, the newest."""
    if Conf.SAVE_LIMIT <= 0 or Conf.SAVE_LIMIT_PER:
        return 0
    successes = Success.objects.using(using).order_by("-stopped")
    oldest_kept: datetime | None = successes.values_list("stopped", flat=True)[Conf.SAVE_LIMIT - 1 : Conf.SAVE_LIMIT].first()
    return _delete_some(successes.filter(stopped__lt=oldest_kept)) if oldest_kept else 0


def _delete_some(rows: QuerySet[Any]) -> int:
    ids = list(rows.order_by().values_list("pk", flat=True)[:BATCH])
    return rows.model._base_manager.using(rows.db).filter(pk__in=ids).delete()[0] if ids else 0
