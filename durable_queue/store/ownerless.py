"""Rows that are held under a lease that no worker has."""

from collections.abc import Sequence

from django.db import transaction

from durable_queue.states import for_now, held_from
from durable_queue.store import cancelling
from durable_queue.store.broker import Broker
from durable_queue.store.leases import Row
from durable_queue.store.rows import QUEUE_TABLE, WORKERS_TABLE
from durable_queue.store.table import Table

_NO_OWNER = f"NOT EXISTS (SELECT 1 FROM {WORKERS_TABLE} WHERE lease = {QUEUE_TABLE}.lock)"  # noqa: S608


def ownerless(table: Table, queues: Sequence[str]) -> list[tuple[int, str]]:
    """The ids and leases of such rows in these queues, by one snapshot. Raises django.db.Error."""
    keys = ", ".join(["%s"] * len(queues))
    sql = f"SELECT id, CAST(lock AS TEXT) FROM {QUEUE_TABLE} WHERE key IN ({keys}) AND lock > %s AND {_NO_OWNER}"  # noqa: S608
    return [(int(row), str(lease)) for row, lease in table.run(sql, (*queues, table.moment(held_from())))]


def free_ownerless(broker: Broker, row: int, lease: str) -> bool:
    """Let go of a row, if that lease still holds it, and no worker has the lease; return whether it was so.

    A task that somebody has asked to cancel ends. Raises django.db.Error.
    """
    table = broker.table
    sql = f"UPDATE {QUEUE_TABLE} SET lock = %s WHERE id = %s AND lock = %s AND {_NO_OWNER} RETURNING key, payload"  # noqa: S608
    with transaction.atomic(using=broker.using):
        now = table.present()
        found = table.run(sql, (table.moment(for_now(now)), row, lease))
        for queue, payload in found:
            rows = [Row(*counted) for counted in table.count_attempts([(row, now, payload)])]
            cancelling.end_unrun(Broker(queue, broker.using, follow_up=broker.follow_up), rows)
    return bool(found)
