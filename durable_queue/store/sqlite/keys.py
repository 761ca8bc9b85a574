"""The idempotency keys of requests, on SQLite."""

from collections.abc import Sequence
from datetime import UTC, datetime

from durable_queue.conf import cluster_conf
from durable_queue.store.keys import Request, Stored, take
from durable_queue.store.table import Table

_TAKE = take("VALUES (?1, ?2, ?3, ?4)", "?5")


def take_keys(table: Table, requests: Sequence[Request]) -> list[Stored | None]:
    """Take the keys of requests, or see what stands under each; None for a request without one.

    The current transaction is the only one that writes.
    """
    now = datetime.now(UTC)
    moments = table.moment(now), table.moment(now - cluster_conf.idempotency)

    def take_key(request: Request) -> Stored | None:
        if request.key is None:
            return None
        ((_, fingerprint, task_ids),) = table.run(_TAKE, (*request.key, request.task_ids, *moments))
        return Stored(fingerprint, task_ids)

    return [take_key(request) for request in requests]
