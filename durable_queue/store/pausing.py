"""Pause and resume queues. A paused one accepts tasks, and no worker on any host claims one of them.

The statements that claim look for themselves whether their queue is paused, so nothing has to be told to anybody, and no
restart undoes it. The tasks of a queue that run alone belong to it. What a worker has in hand runs to its end.
"""

from datetime import UTC, datetime

from django.db import connections, transaction
from django_q.conf import Conf, logger

from durable_queue.models import PausedQueue
from durable_queue.store import wakeup
from durable_queue.store.databases import table_of
from durable_queue.store.leases import alone_queue, home_queue
from durable_queue.store.rows import PAUSED_TABLE
from durable_queue.task.text import storable

NAME_LENGTH = PausedQueue._meta.pk.max_length or 100
BY_LENGTH = PausedQueue._meta.get_field("by").max_length or 150

_PAUSE = f"""
    INSERT INTO {PAUSED_TABLE} (queue, "by", why, since) VALUES (%s, %s, %s, %s) ON CONFLICT (queue) DO NOTHING RETURNING queue
"""  # noqa: S608
_RESUME = f"DELETE FROM {PAUSED_TABLE} WHERE queue = %s RETURNING queue"  # noqa: S608


def pause(queue: str, *, by: str, why: str = "", using: str | None = None) -> bool:
    """Pause a queue, whether anybody serves it or not; return whether this call did it. `by`: who does it.

    From a second after the commit on, none of its tasks begins on any host: what workers have claimed and not begun by then,
    they give back. `using`: the database's alias, if it isn't the configured one. Raises ValueError for what can't be a
    queue's name, and django.db.Error.
    """
    queue = _name_of(queue)
    alias = using or Conf.ORM or "default"
    table = table_of(connections[alias])
    by, why = storable(by)[:BY_LENGTH], storable(why)
    is_ours = bool(table.run(_PAUSE, (queue, by, why, table.moment(datetime.now(UTC)))))
    if is_ours:
        _say(alias, "paused", queue, by, why)
    return is_ours


def resume(queue: str, *, by: str, why: str = "", using: str | None = None) -> bool:
    """Resume a queue; return whether this call did it. Its workers here go on at once, elsewhere within a second.

    `by`, `using`, and what it raises: as `pause`.
    """
    queue = _name_of(queue)
    alias = using or Conf.ORM or "default"
    is_ours = bool(table_of(connections[alias]).run(_RESUME, (queue,)))
    if is_ours:
        _say(alias, "resumed", queue, storable(by)[:BY_LENGTH], storable(why))
        transaction.on_commit(lambda: _wake(queue), using=alias)
    return is_ours


def paused(using: str | None = None) -> list[PausedQueue]:
    """The queues that are paused, by their names. Raises django.db.Error."""
    return list(PausedQueue.objects.using(using or Conf.ORM or "default").order_by("queue"))


def _name_of(queue: str) -> str:
    name = home_queue(queue)
    if not 0 < len(name) <= NAME_LENGTH or storable(name) != name:
        raise ValueError(f"No queue has this name: {queue!r}")
    return name


def _say(alias: str, what: str, queue: str, by: str, why: str) -> None:
    """Log it once it is committed. Quoted: what somebody gives as a reason must not look like a line of its own."""
    reason = f" ({why!r})" if why else ""
    transaction.on_commit(lambda: logger.warning("The queue %r was %s by %r%s", queue, what, by, reason), using=alias)


def _wake(queue: str) -> None:
    for name in (queue, alone_queue(queue)):
        wakeup.wake(name)
