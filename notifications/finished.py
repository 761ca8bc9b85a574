"""Which tasks can't come back, so that nobody needs to remember what they have written."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from django.core.signing import b62_decode
from django.db import connections
from django_q.conf import Conf
from django_q.models import OrmQ, Task

from notifications.cluster.identifiers import queued_at
from notifications.cluster.models import Attempt

CHUNK = 500  # ids in one query
MARGIN = timedelta(minutes=10)  # by which a clock may be set back without making a queued task look older than the queue
EMPTY = datetime.max.replace(tzinfo=UTC)
UNKNOWN = datetime.min.replace(tzinfo=UTC) + MARGIN


def finished(ids: Collection[bytes]) -> set[bytes]:
    """Of the given task ids (16 bytes each), those whose task has succeeded, or is neither queued nor known any more.

    One that failed may be submitted again for as long as history has it. Raises django.db.Error.
    """
    using = Conf.ORM or "default"
    if connections[using].in_atomic_block:
        return set()  # somebody's own transaction, which an error here would break
    since = _queued_since(using)  # first: a task leaves the queue in the transaction that puts it into history
    names = sorted(identifier.hex() for identifier in ids)
    found: set[str] = set()
    for chunk in (names[at : at + CHUNK] for at in range(0, len(names), CHUNK)):
        history = dict(Task.objects.using(using).filter(pk__in=chunk).values_list("pk", "success"))
        found.update(pk for pk, success in history.items() if success)
        if unknown := [pk for pk in chunk if pk not in history and _is_older(pk, since)]:
            tried = Attempt.objects.using(using).filter(task_id__in=unknown).values_list("task_id", flat=True)
            found.update(set(unknown).difference(tried))
    return {bytes.fromhex(pk) for pk in found}


def _queued_since(using: str) -> datetime:
    """Since when the oldest row of the queue has been there: its payload's signature holds the time, in seconds."""
    payload: str | None = OrmQ.objects.using(using).order_by("pk").values_list("payload", flat=True).first()
    if payload is None:
        return EMPTY
    try:
        return datetime.fromtimestamp(b62_decode(payload.rsplit(":", 2)[1]), UTC)
    except (IndexError, ValueError, OverflowError, OSError):
        return UNKNOWN


def _is_older(pk: str, since: datetime) -> bool:
    """Whether a task that is known nowhere was queued before all that are in the queue."""
    made = queued_at(pk)
    return since == EMPTY or (made is not None and made < since - MARGIN)
