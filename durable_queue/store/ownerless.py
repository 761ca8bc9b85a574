"""Rows that are held under a lease that no worker has."""

from collections.abc import Sequence

from durable_queue.states import for_now, held_from
from durable_queue.store.rows import QUEUE_TABLE, WORKERS_TABLE
from durable_queue.store.table import Table

_NO_OWNER = f"NOT EXISTS (SELECT 1 FROM {WORKERS_TABLE} WHERE lease = {QUEUE_TABLE}.lock)"  # noqa: S608


def ownerless(table: Table, queues: Sequence[str]) -> list[tuple[int, str]]:
    """The ids and leases of such rows in these queues, by one snapshot. Raises django.db.Error."""
    keys = ", ".join(["%s"] * len(queues))
    sql = f"SELECT id, CAST(lock AS TEXT) FROM {QUEUE_TABLE} WHERE key IN ({keys}) AND lock > %s AND {_NO_OWNER}"  # noqa: S608
    return [(int(row), str(lease)) for row, lease in table.run(sql, (*queues, table.moment(held_from())))]


def free_ownerless(table: Table, row: int, lease: str) -> bool:
    """Let go of a row, if that lease still holds it, and no worker has the lease; return whether it was so.

    Raises django.db.Error.
    """
    sql = f"UPDATE {QUEUE_TABLE} SET lock = %s WHERE id = %s AND lock = %s AND {_NO_OWNER} RETURNING id"  # noqa: S608
    return bool(table.run(sql, (table.moment(for_now(table.present())), row, lease)))
