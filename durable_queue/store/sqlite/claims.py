"""The statements that claim, on SQLite, and which of the rows that they find are taken."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from durable_queue.store.rows import ATTEMPTS_TABLE, CLAIMED_BYTES, PAUSED_TABLE, QUEUE_TABLE, WORKERS_TABLE

_IS_PAUSED = f"EXISTS (SELECT 1 FROM {PAUSED_TABLE} WHERE queue = ?)"  # noqa: S608 - the same for all rows: SQLite looks once
# Before x'' there is no blob: like NULL, it is no moment (`durable_queue.store.ownerless`).
FIRST = f"""
    SELECT CAST(lock AS TEXT), lock <= ?, {_IS_PAUSED} FROM {QUEUE_TABLE}
    WHERE key = ? AND lock < x'' ORDER BY lock, id LIMIT 1
"""  # noqa: S608
TAKE_LEASE = f"UPDATE {WORKERS_TABLE} SET lease = ?, lease_due = ? WHERE id = ? AND lease IS ?"  # noqa: S608
# What is due was read in this transaction, the only one that writes: it still is all that comes up to its last row.
_HOLD = f"UPDATE {QUEUE_TABLE} SET lock = ? WHERE key = ? AND (lock, id) <= (?, ?)"  # noqa: S608
_HOLD_THESE = f"UPDATE {QUEUE_TABLE} SET lock = ? WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608


def hold_these(lease: str, rows: Iterable[Any]) -> tuple[str, Sequence[Any]]:
    """Hold these rows, each by its id: the statement, with its values."""
    return _HOLD_THESE, (lease, str([row for row, *_ in rows]))


def hold(lease: str, queue: str, rows: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """Hold all rows up to the last of these. A number, which is no moment, may be another one as text: then, each by its id."""
    if not rows or rows[-1][1][4:5] != "-":
        return hold_these(lease, rows)
    last, last_lock = rows[-1][:2]
    return _HOLD, (lease, queue, last_lock, last)


def bounded(found: Iterable[Any], limit: int) -> tuple[list[Any], bool]:
    """The first of these rows, fewer if their payloads are long; and whether they are surely all that there are.

    SQLite reads each as it is asked for.
    """
    rows: list[Any] = []
    size = 0
    for row in found:
        size += len(row[2])
        if rows and size > CLAIMED_BYTES:
            return rows, False
        rows.append(row)
    return rows, len(rows) < limit


@functools.cache
def due(limit: int, *, later: bool = False) -> str:
    """The first due rows by their `lock`, or (`later`) the first of those whose delay is over."""
    # `lock` as text, because the driver would call Python to convert each. The limit as a literal: if it is bound, newer
    # versions of SQLite read its value and plan the statement again for each value (`sqlite3ExprIsInteger` in expr.c).
    # That takes longer than the rest of a claim.
    made = f"SELECT count(*) FROM {ATTEMPTS_TABLE} WHERE row = {QUEUE_TABLE}.id"  # noqa: S608
    found = f"SELECT id, CAST(lock AS TEXT), payload, ({made}), ({made} AND outcome = ?) FROM {QUEUE_TABLE}"  # noqa: S608
    when = "lock >= ? AND lock <= ?" if later else "lock <= ?"
    return f"{found} WHERE key = ? AND {when} AND NOT {_IS_PAUSED} ORDER BY lock, id LIMIT {limit:d}"
