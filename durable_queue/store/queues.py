"""Which queues there are: those that `Q_CLUSTER` names, those that workers serve, and those that nobody takes tasks from."""

import functools

from django.conf import settings
from django.db.models import Exists, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Replace
from django_q.conf import Conf, logger
from django_q.models import OrmQ

from durable_queue.models import PausedQueue, Worker
from durable_queue.store.leases import ALONE, alone_queue, home_queue

MOST = 100  # queues that are looked at
COUNTED = 10_000  # rows of each that are counted


def configured() -> set[str]:
    """The queues that `Q_CLUSTER` names."""
    # django-q2 drops ALT_CLUSTERS from its own copy where it runs one of them.
    others = getattr(settings, "Q_CLUSTER", {}).get("ALT_CLUSTERS")
    return {Conf.PREFIX, Conf.CLUSTER_NAME, *(others if isinstance(others, dict) else ())}


def is_known(queue: str, using: str) -> bool:
    """Whether `Q_CLUSTER` names the queue, or a worker serves it. Raises django.db.Error."""
    home = home_queue(queue)
    return home in configured() or Worker.objects.using(using).filter(queue__in=(home, alone_queue(home))).exists()


@functools.cache
def warn_if_unknown(queue: str) -> None:
    """Say once that a task was enqueued where it may wait for ever. Another project's cluster may serve that queue."""
    if home_queue(queue) not in configured():
        logger.warning(
            "A task was enqueued for the cluster %r, which Q_CLUSTER names neither as its own nor in ALT_CLUSTERS (%s): "
            "it waits until `manage.py qcluster --name %s` runs",
            queue,
            ", ".join(sorted(configured())),
            queue,
        )


def _home_of_row() -> Replace:
    return Replace(OuterRef("key"), Value(ALONE), Value(""))


def is_served() -> Exists:
    """Whether a worker takes rows from the queue of a row; those that run alone have workers when they are due."""
    return Exists(Worker.objects.filter(Q(queue=OuterRef("key")) | Q(queue=_home_of_row())))


def pause_of_row() -> QuerySet[PausedQueue]:
    """The pause of the queue of a row, if it is paused, for a subquery."""
    return PausedQueue.objects.filter(queue=_home_of_row())


def unserved(using: str) -> dict[str, int]:
    """How many rows wait in each queue that no worker serves. Raises django.db.Error.

    The index of claims begins with the queue's name: each name is one look into it.
    """
    served = {home_queue(queue) for queue in Worker.objects.using(using).values_list("queue", flat=True).distinct()}
    rows = OrmQ.objects.using(using)
    waiting: dict[str, int] = {}
    name: str | None = ""
    for _ in range(MOST):
        name = rows.filter(key__gt=name).order_by("key").values_list("key", flat=True).first()
        if name is None:
            break
        if (queue := home_queue(name)) not in served:
            waiting[queue] = waiting.get(queue, 0) + rows.filter(key=name).values("pk")[:COUNTED].count()
    return waiting


def told(queue: str, count: int) -> str:
    """In words, how many tasks wait in a queue that nobody serves."""
    number = f"{count:,}" if count < COUNTED else f"{COUNTED:,} or more"
    return f"{number} {'task waits' if count == 1 else 'tasks wait'} in the queue {queue!r}, which no worker serves"
