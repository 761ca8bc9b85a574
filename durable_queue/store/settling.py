"""Settle rows: history in, queue rows out, within the transaction that ends or changes their lease."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from durable_queue.models import FailedAttempt
from durable_queue.states import for_now
from durable_queue.store import cancelling
from durable_queue.store.leases import LeaseChange, Settlement

if TYPE_CHECKING:
    from durable_queue.store.broker import Broker


def settle(broker: "Broker", name: datetime, lease: LeaseChange, settlements: Sequence[Settlement]) -> None:
    """Write history for the rows that the lease of this name holds still, and take them out of the queue."""
    table = broker.table
    ended = [settlement.row.id for settlement in settlements if settlement.retry_at is None]
    still_held = table.delete(lease=name, ids=ended)
    retried = [settlement for settlement in settlements if settlement.retry_at]
    ahead = table.clock_ahead() if retried else None
    for settlement in retried:
        row, due = settlement.row, settlement.retry_at
        assert due is not None and ahead is not None  # noqa: S101, PT018
        lock = for_now(row.due) if due == row.due else due + ahead  # at once, in its old place; or once its delay is over
        if table.put_back(lease=name, row=row.id, lock=lock, payload=settlement.payload):
            still_held.add(row.id)
    lease.settled = [settlement for settlement in settlements if settlement.row.id in still_held]
    if retried:
        lease.settled = cancelling.end_retried(broker, lease.settled)
    table.save_history([s.history() for s in lease.settled if s.retry_at is None and s.saves_result])
    if failed := [s.attempt for s in lease.settled if s.attempt]:
        for attempt in failed:
            # An earlier try may have given it an id and been rolled back, and on SQLite the next one gets that id again.
            attempt.pk = None
        FailedAttempt.objects.using(broker.using).bulk_create(failed)
    for settlement in lease.settled:
        if settlement.refused:
            cancelling.keep_dead_letter(broker, settlement)
    cancelling.note_heeded([settlement.task["id"] for settlement in lease.settled if settlement.cancelled], using=broker.using)
    if broker.follow_up:
        broker.follow_up(broker, [settlement for settlement in lease.settled if settlement.retry_at is None])
