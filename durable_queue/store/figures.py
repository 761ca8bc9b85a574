"""The figures that upkeep publishes, so that nobody else has to count: how many tasks are due and wait."""

from datetime import UTC, datetime, timedelta

from django_q.conf import Conf

from durable_queue.models import Figure
from durable_queue.states import Present
from durable_queue.store.leases import alone_queue, home_queue
from durable_queue.store.rows import QUEUE_TABLE
from durable_queue.store.table import Table


def _backlog_of(queue: str) -> str:
    return f"backlog of {home_queue(queue)}"


def count_due(table: Table, queue: str, most: int) -> int:
    """How many tasks of this queue are due and wait for a worker; at most `most`. Raises django.db.Error.

    The index of claims begins with the queue's name and the `lock`: no more entries of it are read.
    """
    due = f"SELECT 1 FROM {QUEUE_TABLE} WHERE key = %s AND lock <= %s LIMIT %s"  # noqa: S608
    sql = f"SELECT count(*) FROM ({due}) AS due"  # noqa: S608
    count, now = 0, table.moment(datetime.now(UTC))
    for name in (home_queue(queue), alone_queue(queue)):
        count += table.run(sql, (name, now, most - count))[0][0]
    return count


def publish_backlog(using: str, queue: str, count: int) -> None:
    """Publish how many tasks are due and wait. Raises django.db.Error."""
    figures, name = Figure.objects.using(using), _backlog_of(queue)
    if not figures.filter(name=name).update(value=count, at=Present()):
        figures.bulk_create([Figure(name=name, value=count, at=datetime.now(UTC))], ignore_conflicts=True)


def backlog(*, fresh: float, using: str | None = None, queue: str | None = None) -> int | None:
    """How many tasks of this queue were due and waiting, at most so many seconds ago; None: nobody has counted since.

    By default of the project's own queue. The count may stop at `Q_CLUSTER["max_backlog"]`. Raises django.db.Error.
    """
    figures = Figure.objects.using(using or Conf.ORM or "default")
    since = Present() - timedelta(seconds=fresh)
    found = figures.filter(name=_backlog_of(queue or Conf.CLUSTER_NAME), at__gte=since).values_list("value", flat=True).first()
    return None if found is None else int(found)
