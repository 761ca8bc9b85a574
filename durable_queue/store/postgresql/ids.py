"""The queue rows' ids: 64 bits wide, though django-q2's model says 32. At 1,000 tasks a second, 32 bits last 25 days.

The model stays as it is, so Django still takes the ids for short ones: it answers `filter(pk=...)` for a long one with no rows,
without asking the database (`IntegerFieldOverflow` in its db/models/lookups.py). `filter(pk__in=[...])` does ask.
"""

import time

from django.db import Error as DatabaseError
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django_q.conf import logger

from durable_queue.store.rows import QUEUE_TABLE

MOST_ROWS = 1_000_000  # all are written anew while nothing else can use the table: some seconds, at most
TRIES, PAUSE = 10, 0.5  # how often the table's lock is asked for, and the seconds in between
LOCK_NOT_AVAILABLE = "55P03"  # https://www.postgresql.org/docs/current/errcodes-appendix.html

_NARROW = """
    SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'id' AND atttypid = 'integer'::regtype
    UNION SELECT 1 FROM pg_sequence
    WHERE seqrelid = pg_get_serial_sequence(to_regclass(%s)::text, 'id')::regclass AND seqtypid = 'integer'::regtype
"""


def are_narrow(connection: BaseDatabaseWrapper) -> bool:
    """Whether the ids are still 32 bits wide. No, where the table does not exist. Raises django.db.Error."""
    with connection.cursor() as cursor:
        cursor.execute(_NARROW, (QUEUE_TABLE, QUEUE_TABLE))
        return cursor.fetchone() is not None


def widen(connection: BaseDatabaseWrapper) -> None:
    """Widen them, unless there are too many rows, others hold the table, or it is another user's: then a later call does it."""
    if not are_narrow(connection):
        return
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM (SELECT FROM {QUEUE_TABLE} LIMIT {MOST_ROWS} + 1) AS rows")  # noqa: S608
        if cursor.fetchone()[0] > MOST_ROWS:
            logger.warning("The queue's ids stay 32 bits wide while more than %d tasks are queued", MOST_ROWS)
            return
    for _ in range(TRIES):
        try:
            _alter(connection)
        except DatabaseError as error:
            reason = str(error).strip()
            if getattr(error.__cause__, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                break
            time.sleep(PAUSE)  # meanwhile, whoever waits behind us gets on
        else:
            return
    logger.warning("The queue's ids stay 32 bits wide: %s", reason)


def _alter(connection: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        # Whoever wants the table meanwhile waits behind us: for less time than a POST does.
        cursor.execute("SET LOCAL lock_timeout = '300ms'; SET LOCAL statement_timeout = 0")
        cursor.execute(f"ALTER TABLE {QUEUE_TABLE} ALTER COLUMN id TYPE bigint")
        # An identity column's sequence has followed. That of a `serial` column, which Django made until 4.1, has not.
        cursor.execute("SELECT pg_get_serial_sequence(%s, 'id')", (QUEUE_TABLE,))
        if sequence := cursor.fetchone()[0]:
            cursor.execute(f"ALTER SEQUENCE {sequence} AS bigint")
