"""What a client asks for by one request, and the idempotency key under which it may ask for it again.

Keys and tasks are committed together. One statement takes a key, or tells what stands under it: of two requests that come at
once, on any host, the second waits for the first one's commit and then sees it, since ON CONFLICT DO UPDATE sees the newest
version of a row (https://www.postgresql.org/docs/current/transaction-iso.html#XACT-READ-COMMITTED).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from durable_queue.models import IdempotencyKey

KEYS_TABLE = IdempotencyKey._meta.db_table


class NewRow(NamedTuple):
    """A signed payload, and when it is due, by the clock that all hosts share; None: now."""

    payload: str
    due: datetime | None = None


class Key(NamedTuple):
    """An idempotency key: what it is within its scope, and what it was sent with."""

    digest: str
    fingerprint: str


class Request(NamedTuple):
    """Tasks that are queued together, or not at all. `task_ids`: theirs, each of 32 digits, without anything in between."""

    rows: Sequence[NewRow]
    task_ids: str
    key: Key | None = None


class Stored(NamedTuple):
    """What stands under a key: the fingerprint of the request that came first, and the ids of the tasks that it has queued."""

    fingerprint: str
    task_ids: str


def new_rows(requests: Sequence[Request], stored: Sequence[Stored | None]) -> list[NewRow]:
    """The rows to insert: those of the requests that have taken their keys just now, or have none."""
    return [
        row
        for request, stands in zip(requests, stored, strict=True)
        if stands is None or stands.task_ids == request.task_ids
        for row in request.rows
    ]


def take(values: str, expired: str) -> str:
    """The SQL that takes keys, or leaves those that stand already; it returns what stands then: digest, fingerprint, ids.

    `values`: the source of digest, fingerprint, task_ids and at. `expired`: the moment before which a key is as good as none.
    A key that stands is written again as it is: only so does the statement return it, and does nobody prune it meanwhile.
    """
    renewed = ", ".join(
        f"{column} = CASE WHEN stood.at < {expired} THEN excluded.{column} ELSE stood.{column} END"
        for column in ("fingerprint", "task_ids", "at")
    )
    return (
        f"INSERT INTO {KEYS_TABLE} AS stood (digest, fingerprint, task_ids, at) {values} "
        f"ON CONFLICT (digest) DO UPDATE SET {renewed} RETURNING digest, fingerprint, task_ids"
    )
