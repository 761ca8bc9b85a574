"""The statements that claim, on PostgreSQL. The server's clock says what is due: it is the one that all hosts share."""

import functools
from datetime import timedelta

from durable_queue import states
from durable_queue.store.postgresql import prepared
from durable_queue.store.rows import ATTEMPTS_TABLE, CLAIMED_BYTES, PAUSED_TABLE, QUEUE_TABLE, WORKERS_TABLE

# Hours, not days: a day is longer or shorter where a session's time zone changes its clock.
_BEHIND = f"interval '{states.FOR_NOW // timedelta(hours=1)} hours'"
_EARLIEST = f"timestamptz '{states.EARLIEST.isoformat()}'"
_UNTIL = f"timestamptz '{states.FOR_NOW_UNTIL.isoformat()}'"
FOR_NOW = f"statement_timestamp() - {_BEHIND}"  # the `lock` of a row that is queued now

# Of the rows that one statement finds: those that are for now, and those whose delay is over. Each by the index, in order.
_FOR_NOW = (f"greatest(lock, {_EARLIEST} - {_BEHIND}) + {_BEHIND}", f"lock < {_UNTIL}")
_LATER = ("lock", f"lock >= {_UNTIL} AND lock <= statement_timestamp()")

# In seconds. No row's moment is too far off for the difference: PostgreSQL also holds infinite ones.
# Then whether the queue is paused. It takes the home queue's name, and the queue's.
UNTIL_DUE = f"""
    SELECT extract(epoch FROM least(greatest(lock, {_UNTIL}), timestamptz '9999-01-01') - statement_timestamp())::float8,
        EXISTS (SELECT FROM {PAUSED_TABLE} WHERE queue = %s)
    FROM {QUEUE_TABLE} WHERE key = %s AND lock IS NOT NULL ORDER BY lock, id LIMIT 1
"""  # noqa: S608


def lock_of(due: str) -> str:
    """The `lock` of a row that is due at this moment, an SQL expression; NULL stands for now."""
    since = f"greatest(coalesce({due}, statement_timestamp()), {_EARLIEST}) - {_BEHIND}"
    return f"CASE WHEN {due} > statement_timestamp() THEN {due} ELSE {since} END"


def _locked(limit: int, key: str, columns: str) -> str:
    """The first due rows, locked, as `locked`: those that are for now, and in their places those whose delay is over."""
    for_now, later = (
        f"SELECT id, {due} AS due, payload{columns} FROM {QUEUE_TABLE} "  # noqa: S608
        f"WHERE key = {key} AND {when} ORDER BY lock, id LIMIT {limit:d} FOR UPDATE SKIP LOCKED"
        for due, when in (_FOR_NOW, _LATER)
    )
    both = f"SELECT * FROM for_now UNION ALL SELECT * FROM later ORDER BY due, id LIMIT {limit:d}"  # noqa: S608
    return f"for_now AS MATERIALIZED ({for_now}), later AS MATERIALIZED ({later}), locked AS MATERIALIZED ({both})"


def _bounded(rows: str, home: str) -> str:
    """The first of these rows whose payloads together are not too long, one at least. It reads no payload.

    None if the home queue is paused. That is the same for all rows: the server looks once, before it looks for rows.
    """
    return f"""
        SELECT * FROM (
            SELECT *, sum(octet_length(payload)) OVER (ROWS UNBOUNDED PRECEDING) AS size,
                row_number() OVER () AS place_in_batch
            FROM {rows} WHERE NOT EXISTS (SELECT FROM {PAUSED_TABLE} WHERE queue = {home})
        ) AS measured WHERE size <= {CLAIMED_BYTES} OR place_in_batch = 1
    """  # noqa: S608


@functools.cache
def due(limit: int) -> str:
    """Lock the first due rows. It takes the queue's name, twice, and the home queue's."""
    # The moment as text, which Python reads quicker than psycopg and Django do together.
    locked = _locked(limit, "%s", "")
    return f"WITH {locked} SELECT id, due::text, payload FROM ({_bounded('locked', '%s')}) AS bounded"  # noqa: S608


# `locked` locks the due rows in their newest version, but gives them as they were when the statement began. A row that
# another worker claimed in between, and lost again, has another place (`ctid`) by now. `due` looks each place up again, and
# leaves out the rows that are no longer there. `me` takes the lease, once, and only if there is a row to hold. This commit
# need not be on the disk: after a crash of the server the rows are due again, and the worker finds its lease lost.
@functools.cache
def at_once(limit: int) -> prepared.Statement:
    """Claim. It takes the queue's name, the new lease, the worker's id, its lease so far, and the home queue's name."""
    was_tried = f"(SELECT count(*) FROM {ATTEMPTS_TABLE} WHERE row = {QUEUE_TABLE}.id) > 0 AS was_tried"  # noqa: S608
    sql = f"""
        WITH {_locked(limit, "$1", f", ctid AS place, {was_tried}")},
        bounded AS MATERIALIZED ({_bounded("locked", "$5")}),
        due AS MATERIALIZED (SELECT * FROM bounded WHERE (SELECT true FROM {QUEUE_TABLE} seen WHERE seen.ctid = place)),
        me AS (
            UPDATE {WORKERS_TABLE} SET lease = $2, lease_due = (SELECT min(due) FROM due)
            WHERE id = $3 AND lease IS NOT DISTINCT FROM $4 AND EXISTS (SELECT FROM due)
                AND set_config('synchronous_commit', 'off', true) = 'off'
            RETURNING lease
        )
        UPDATE {QUEUE_TABLE} SET lock = me.lease FROM due, me WHERE {QUEUE_TABLE}.ctid = due.place
        RETURNING due.id, due.due, due.payload, due.was_tried
    """  # noqa: S608
    return prepared.Statement(f"notifier_claim_{limit}", sql)
