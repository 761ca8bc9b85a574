"""Rows that are for now, and were queued by a clock that was ahead: they keep their order, however far it is set back.

They run at once all the same. But what is queued after the clock was set back would have a place before them.
"""

from datetime import datetime, timedelta

from django.db import transaction

from durable_queue.states import FOR_NOW_UNTIL, due_since, for_now
from durable_queue.store.broker import Broker
from durable_queue.store.rows import QUEUE_TABLE

AHEAD = timedelta(seconds=1)  # from which on a clock counts as one that was ahead
BATCH = 1000  # rows that get another place in one transaction

_THESE = f"FROM {QUEUE_TABLE} WHERE key = %s AND lock > %s AND lock < %s"


def most_ahead(broker: Broker, present: datetime) -> timedelta:
    """How far the clock was ahead by which the last row was queued; 0 if it was not. Raises django.db.Error."""
    table = broker.table
    span = broker.queue, table.moment(for_now(present + AHEAD)), table.moment(FOR_NOW_UNTIL)
    found = table.run(f"SELECT lock {_THESE} ORDER BY lock DESC LIMIT 1", span)
    return due_since(table.aware(found[0][0])) - present if found else timedelta(0)


def pull_back(broker: Broker, present: datetime) -> int:
    """Give a batch of these rows the place before all that was queued after them; return how many. Raises django.db.Error.

    They get the same moment, so that they stay in the order of their ids.
    """
    table = broker.table
    now, until = for_now(present), table.moment(FOR_NOW_UNTIL)
    span = broker.queue, table.moment(now + AHEAD), until
    with table.turn(), transaction.atomic(using=broker.using):
        ((first,),) = table.run(f"SELECT min(id) {_THESE}", span)
        if first is None:
            return 0
        later = f"SELECT min(lock) FROM {QUEUE_TABLE} WHERE key = %s AND lock <= %s AND id > %s"  # noqa: S608
        ((before,),) = table.run(later, (broker.queue, table.moment(now + AHEAD), first))
        place = min(table.aware(before), now) if before else now
        batch = f"SELECT id {_THESE} ORDER BY lock, id LIMIT {BATCH} {table.skip_locked}"
        moved = f"UPDATE {QUEUE_TABLE} SET lock = %s WHERE id IN ({batch}) AND lock < %s RETURNING id"  # noqa: S608
        return len(table.run(moved, (table.moment(place), *span, until)))
