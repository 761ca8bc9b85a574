"""Rows that nobody claims: held under a lease that no worker has, or with a `lock` that is no moment at all."""

from collections.abc import Sequence

from durable_queue.states import for_now, held_from
from durable_queue.store.rows import QUEUE_TABLE, WORKERS_TABLE
from durable_queue.store.table import Table

BATCH = 1000  # rows without a moment that are freed at a time

_NO_OWNER = f"NOT EXISTS (SELECT 1 FROM {WORKERS_TABLE} WHERE lease = {QUEUE_TABLE}.lock)"  # noqa: S608


def ownerless(table: Table, queues: Sequence[str]) -> list[tuple[int, str]]:
    """The ids and leases of such rows in these queues, by one snapshot. Raises django.db.Error."""
    keys = ", ".join(["%s"] * len(queues))
    readable = "AND lock < x''" if table.has_one_writer else ""  # a blob need not be text
    sql = f"SELECT id, CAST(lock AS TEXT) FROM {QUEUE_TABLE} WHERE key IN ({keys}) AND lock > %s {readable} AND {_NO_OWNER}"  # noqa: S608
    return [(int(row), str(lease)) for row, lease in table.run(sql, (*queues, table.moment(held_from())))]


def free_ownerless(table: Table, row: int, lease: str) -> bool:
    """Let go of a row, if that lease still holds it, and no worker has the lease; return whether it was so.

    Raises django.db.Error.
    """
    sql = f"UPDATE {QUEUE_TABLE} SET lock = %s WHERE id = %s AND lock = %s AND {_NO_OWNER} RETURNING id"  # noqa: S608
    return bool(table.run(sql, (table.moment(for_now(table.present())), row, lease)))


def free_momentless(table: Table, queue: str) -> int:
    """Have the rows of a queue be for now whose `lock` is no moment; return how many. Raises django.db.Error.

    Django-q2 writes none, but its column takes NULL, and on SQLite anything. There numbers are less than any text, blobs are
    greater (https://www.sqlite.org/datatype3.html#sort_order); any text is claimed in its turn, or is `ownerless`.
    """
    now, freed = table.moment(for_now(table.present())), 0
    for what in ("IS NULL", "< ''", ">= x''") if table.has_one_writer else ("IS NULL",):
        these = f"key = %s AND lock {what}"
        if table.run(f"SELECT 1 FROM {QUEUE_TABLE} WHERE {these} LIMIT 1", (queue,)):  # noqa: S608
            batch = f"SELECT id FROM {QUEUE_TABLE} WHERE {these} ORDER BY id LIMIT {BATCH} {table.skip_locked}"  # noqa: S608
            sql = f"UPDATE {QUEUE_TABLE} SET lock = %s WHERE id IN ({batch}) RETURNING id"  # noqa: S608
            freed += len(table.run(sql, (now, queue)))
    return freed
