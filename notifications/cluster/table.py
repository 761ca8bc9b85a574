"""The statements that every task goes through, on django-q2's queue and history tables, in SQL.

Django's ORM can say each of them, but takes longer to build them than the database takes to run them: with the ORM a
worker needs 1.8 times as long for a task. All else in this package goes through the ORM.
"""

import functools
import pickle
import time
from binascii import b2a_base64
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django_q.models import OrmQ, Task
from django_q.utils import get_func_repr

from notifications.cluster import prepared
from notifications.cluster.models import Attempt, Worker

QUEUE = OrmQ._meta.db_table
HISTORY = Task._meta.db_table
ATTEMPTS = Attempt._meta.db_table
WORKERS = Worker._meta.db_table
# A claimed row: its id, when it was due, its payload, the attempts at it so far, and how many of them were lost.
Claimed = tuple[int, datetime, str, int, int]


class Claim(NamedTuple):
    """What a worker asks of the queue: at most `limit` of the rows that are due `now`, to be held by a lease of that name."""

    limit: int
    now: datetime
    lease: datetime
    announced: Sequence[int] = ()  # the numbers of rows that are about to be committed (`insert_announced`): wait for them


_LOST = Attempt.Outcome.LOST.value
_FIELDS = Task._meta.concrete_fields
_LENGTHS = {field.name: field.max_length for field in _FIELDS if field.max_length}
_PICKLE = Task._meta.get_field("result").protocol


def run(connection: BaseDatabaseWrapper, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run one statement; return the rows that it gives back."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []
    return _run_on_sqlite(connection, sql.replace("%s", "?"), values)[0]


def _run_on_sqlite(connection: BaseDatabaseWrapper, sql: str, values: Sequence[Any]) -> tuple[list[Any], int]:
    """The rows, and the last inserted one's id. By the driver's connection: Django's cursor takes 12 µs, SQLite 3 to 20."""
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    with connection.wrap_database_errors:
        cursor = connection.connection.execute(sql, values)
        return cursor.fetchall(), cursor.lastrowid


def insert(connection: BaseDatabaseWrapper, queue: str, payloads: Sequence[str], due: datetime) -> int:
    """Put rows into the queue, by one statement and so in one transaction; return the last one's id."""
    moment = _moment(connection, due)
    values = [value for payload in payloads for value in (queue, payload, moment)]
    if connection.vendor == "postgresql":
        return int(run(connection, _insert_sql("(%s, %s, %s)", len(payloads), "RETURNING id"), values)[-1][0])
    # Without RETURNING, which would leave the commit to the fetching of its rows.
    return _run_on_sqlite(connection, _insert_sql("(?, ?, ?)", len(payloads)), values)[1]


def insert_announced(
    connection: BaseDatabaseWrapper, queue: str, payload: str, due: datetime, announce: Callable[[int], None]
) -> int:
    """On PostgreSQL, put one row into the queue in a transaction of its own; return its id.

    While that is committed, `announce` is called with a number, by which a `Claim` can wait for it at the server.
    """
    number = time.time_ns() & 0x7FFF_FFFF or 1
    values = (queue, payload, due, number)
    ((row,),) = prepared.run(connection, _INSERT_ANNOUNCED, values, meanwhile=functools.partial(announce, number))
    return int(row)


# The number is that of an advisory lock, which ends with the transaction
# (https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS); the one before it tells that it is ours.
_ANNOUNCED = int.from_bytes(b"Noti")
_INSERT_ANNOUNCED = prepared.Statement(
    "notifier_insert",
    f"""
        WITH announced AS MATERIALIZED (SELECT pg_advisory_xact_lock({_ANNOUNCED}, $4))
        INSERT INTO {QUEUE} (key, payload, lock) SELECT $1, $2, $3 FROM announced RETURNING id
    """,  # noqa: S608
)
# How long (seconds) to wait for each: a COMMIT may take its time (a standby does not answer …), and what else is due need not.
PATIENCE = 0.1
_AWAIT_ANNOUNCED = prepared.Statement(
    "notifier_await",
    f"""
        WITH bounded AS MATERIALIZED (SELECT set_config('lock_timeout', '{1000 * PATIENCE:.0f}ms', true))
        SELECT pg_advisory_xact_lock_shared({_ANNOUNCED}, number) FROM bounded, unnest($1::int[]) AS number
    """,  # noqa: S608
)


@functools.cache
def _insert_sql(row: str, rows: int, end: str = "") -> str:
    return f"INSERT INTO {QUEUE} (key, payload, lock) VALUES {', '.join([row] * rows)} {end}"  # noqa: S608


def next_due(connection: BaseDatabaseWrapper, queue: str) -> datetime | None:
    """When the first row is due, or till when it is held; None when there is no row."""
    rows = run(connection, f"SELECT lock FROM {QUEUE} WHERE key = %s AND lock IS NOT NULL ORDER BY lock, id LIMIT 1", (queue,))  # noqa: S608
    return _aware(connection, rows[0][0]) if rows else None


def claim(connection: BaseDatabaseWrapper, queue: str, asked: Claim) -> list[Claimed]:
    """Put the first rows that are due under a lease; return them.

    PostgreSQL passes over the rows that another worker is about to take
    (https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE); on SQLite there is one writer at a time.
    """
    if connection.vendor == "postgresql":
        # `lock` as text, which Python reads quicker than psycopg and Django do together.
        due = f"SELECT id, lock::text AS due, payload FROM {QUEUE} WHERE key = %s AND lock <= %s ORDER BY lock, id"  # noqa: S608
        found = run(connection, f"{due} LIMIT {asked.limit:d} FOR UPDATE SKIP LOCKED", (queue, asked.now))
        if found:
            among, ids = _among(connection, [row for row, *_ in found])
            run(connection, f"UPDATE {QUEUE} SET lock = %s WHERE id {among}", (asked.lease, ids))  # noqa: S608
        return count_attempts(connection, _claimed(connection, found))
    rows = run(connection, _due_on_sqlite(asked.limit), (_LOST, queue, _moment(connection, asked.now)))
    if rows:
        last, last_due, *_ = rows[-1]
        run(connection, _HOLD_ON_SQLITE, (_moment(connection, asked.lease), queue, last_due, last))
    return _claimed(connection, rows)


def claim_at_once(connection: BaseDatabaseWrapper, worker: Worker, asked: Claim) -> list[Claimed]:
    """Claim for a worker that holds nothing, in a transaction of its own; return what `claim` does.

    Nothing when nothing is due, or the worker's row is gone. This is what an idle cluster does with a task before it runs:
    on PostgreSQL one journey to the server instead of eight, on SQLite a third of the Python.
    """
    claim = _claim_at_once_on_postgresql if connection.vendor == "postgresql" else _claim_at_once_on_sqlite
    return claim(connection, worker, asked)


def _claim_at_once_on_sqlite(connection: BaseDatabaseWrapper, worker: Worker, asked: Claim) -> list[Any]:
    if connection.connection is None:
        connection.ensure_connection()
    with connection.wrap_database_errors, connection.connection as driver:  # which commits, or rolls back
        driver.execute("BEGIN IMMEDIATE")
        values = (_LOST, worker.queue, _moment(connection, asked.now))
        due: list[Any] = driver.execute(_due_on_sqlite(asked.limit), values).fetchall()
        if not due:
            return []
        name = _moment(connection, asked.lease)
        if not driver.execute(_LEASE_ON_SQLITE, (name, due[0][1], worker.id)).rowcount:
            return []
        last, last_due, *_ = due[-1]
        driver.execute(_HOLD_ON_SQLITE, (name, worker.queue, last_due, last))
    return _claimed(connection, due)


def _claim_at_once_on_postgresql(connection: BaseDatabaseWrapper, worker: Worker, asked: Claim) -> list[Any]:
    # One journey for both. As two transactions: the second sees what the first has waited for, and does not fail with it.
    before = [(_AWAIT_ANNOUNCED, (_array(asked.announced),))] if asked.announced else []
    values = (worker.queue, asked.now, asked.lease, worker.id)
    found = prepared.run(connection, _claim_statement(asked.limit), values, before=before)
    rows = [(int(row), datetime.fromisoformat(due.decode()), payload.decode()) for row, due, payload, _ in found]
    rows.sort(key=itemgetter(1, 0))
    if any(tried == b"t" for *_, tried in found):
        return count_attempts(connection, rows)
    return [(*row, 0, 0) for row in rows]


def count_attempts(connection: BaseDatabaseWrapper, rows: Sequence[tuple[int, Any, str]]) -> list[Any]:
    """Add to held rows how many attempts were made at each so far, and how many of them were lost.

    On PostgreSQL not in the statement that takes them: it locks a row as it is by then, and yet reads other tables as they
    were when it began (https://www.postgresql.org/docs/current/transaction-iso.html#XACT-READ-COMMITTED). Another worker may
    have taken the row in between, been killed, and its lease been freed.
    """
    if not rows:
        return []
    among, ids = _among(connection, [row for row, *_ in rows])
    sql = f"SELECT row, count(*), sum(CASE outcome WHEN %s THEN 1 ELSE 0 END) FROM {ATTEMPTS} WHERE row {among} GROUP BY row"  # noqa: S608
    tried = {row: counts for row, *counts in run(connection, sql, (_LOST, ids))}
    return [(*row, *tried.get(row[0], (0, 0))) for row in rows]


@functools.cache
def _claim_statement(limit: int) -> prepared.Statement:
    sql = f"""
        WITH locked AS MATERIALIZED (
            SELECT id, lock, payload, ctid AS place, (SELECT count(*) FROM {ATTEMPTS} WHERE row = {QUEUE}.id) > 0 AS was_tried
            FROM {QUEUE} WHERE key = $1 AND lock <= $2
            ORDER BY lock, id LIMIT {limit:d} FOR UPDATE SKIP LOCKED
        ),
        due AS MATERIALIZED (SELECT * FROM locked WHERE (SELECT true FROM {QUEUE} seen WHERE seen.ctid = place)),
        me AS (
            UPDATE {WORKERS} SET lease = $3, lease_due = (SELECT min(lock) FROM due)
            WHERE id = $4 AND lease IS NULL AND EXISTS (SELECT FROM due)
                AND set_config('synchronous_commit', 'off', true) = 'off'
            RETURNING lease
        )
        UPDATE {QUEUE} SET lock = me.lease FROM due, me WHERE {QUEUE}.ctid = due.place
        RETURNING due.id, due.lock, due.payload, due.was_tried
    """  # noqa: S608
    return prepared.Statement(f"notifier_claim_{limit}", sql)


_LEASE_ON_SQLITE = f"UPDATE {WORKERS} SET lease = ?, lease_due = ? WHERE id = ? AND lease IS NULL"  # noqa: S608
# On SQLite what is due was read in this transaction, the only one that writes: it still is all that comes up to its last row.
_HOLD_ON_SQLITE = f"UPDATE {QUEUE} SET lock = ? WHERE key = ? AND (lock, id) <= (?, ?)"  # noqa: S608


@functools.cache
def _due_on_sqlite(limit: int) -> str:
    # `lock` as text, so that the driver calls no Python for each; and the limit as a literal: newer versions look at the
    # value of one that is bound, and for each they plan the statement anew (`sqlite3ExprIsInteger` in their expr.c), which
    # takes longer than all else of a claim.
    made = f"SELECT count(*) FROM {ATTEMPTS} WHERE row = {QUEUE}.id"  # noqa: S608
    due = f"SELECT id, CAST(lock AS TEXT), payload, ({made}), ({made} AND outcome = ?) FROM {QUEUE}"  # noqa: S608
    return f"{due} WHERE key = ? AND lock <= ? ORDER BY lock, id LIMIT {limit:d}"


def _among(connection: BaseDatabaseWrapper, ids: Collection[int]) -> tuple[str, object]:
    """The condition that a column is among the ids, and its one value.

    So a statement is the same for any number of ids: SQLite's driver keeps each one that it has seen prepared, up to a hundred.
    """
    if connection.vendor == "postgresql":
        return "= ANY(%s)", _array(ids)
    return "IN (SELECT value FROM json_each(%s))", str(list(ids))  # https://www.sqlite.org/json1.html#jeach


def _claimed(connection: BaseDatabaseWrapper, rows: list[Any]) -> list[Any]:
    """Rows that were found, their due times as Python has them."""
    return [(row, _aware(connection, due), *rest) for row, due, *rest in rows]


def delete(connection: BaseDatabaseWrapper, *, lease: datetime, ids: Collection[int]) -> set[int]:
    """Take those of the rows that the lease still holds out of the queue; return their ids."""
    if not ids:
        return set()
    among, value = _among(connection, ids)
    sql = f"DELETE FROM {QUEUE} WHERE lock = %s AND id {among} RETURNING id"  # noqa: S608
    return {row for (row,) in run(connection, sql, (_moment(connection, lease), value))}


def put_back(connection: BaseDatabaseWrapper, *, lease: datetime, row: int, due: datetime) -> bool:
    """Let go of a row, to be run when it is due; return whether the lease still held it."""
    sql = f"UPDATE {QUEUE} SET lock = %s WHERE lock = %s AND id = %s RETURNING id"  # noqa: S608
    return bool(run(connection, sql, (_moment(connection, due), _moment(connection, lease), row)))


def change_lease(
    connection: BaseDatabaseWrapper, worker: int, *, old: datetime | None, new: datetime | None, due: datetime | None
) -> bool:
    """Note a worker's new lease, and when its first row was due; return whether the worker still held the old one."""
    values = [moment and _moment(connection, moment) for moment in (new, due)]
    sql = f"UPDATE {WORKERS} SET lease = %s, lease_due = %s WHERE id = %s AND lease "  # noqa: S608
    if old is None:
        return bool(run(connection, f"{sql} IS NULL RETURNING id", (*values, worker)))
    return bool(run(connection, f"{sql} = %s RETURNING id", (*values, worker, _moment(connection, old))))


class HistoryRow(NamedTuple):
    """A row of the history, in the order of its model's fields, so that `Task(*row)` is its object."""

    id: str
    name: str
    func: str
    hook: Any
    args: Any
    kwargs: Any
    result: Any
    group: str | None
    cluster: str | None
    started: datetime
    stopped: datetime
    success: bool
    attempt_count: int


def save_history(connection: BaseDatabaseWrapper, history: Iterable[HistoryRow]) -> None:
    """Insert history rows; one that is there already (of a task that was queued again) is overwritten."""
    rows = [_storable(connection, row) for row in history]
    if not rows:
        return
    names = [connection.ops.quote_name(field.column) for field in _FIELDS]
    sql = f"INSERT INTO {HISTORY} ({', '.join(names)}) {{}} ON CONFLICT (id) DO UPDATE SET "
    sql += ", ".join(f"{name} = excluded.{name}" for name in names)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # One array a column: one round trip, and one plan whatever the number of rows.
            arrays = ", ".join(f"%s::{field.db_type(connection)}[]" for field in _FIELDS)
            columns = [_array(column) for column in zip(*rows, strict=True)]
            cursor.execute(sql.format(f"SELECT * FROM unnest({arrays})"), columns)  # noqa: S608
        else:
            cursor.executemany(sql.format(f"VALUES ({', '.join(['%s'] * len(names))})"), rows)


def _array(values: Iterable[object]) -> str:
    """PostgreSQL's literal of an array of one value or more (https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO).

    psycopg makes one of a list item by item, in Python, and needs five times as long. NUL, which no text of PostgreSQL's can
    hold, stands here for what comes between two values, and for one that is NULL.
    """
    texts = ["\0N" if value is None else value if isinstance(value, str) else str(value) for value in values]
    quoted = "\0,".join(texts).replace("\\", r"\\").replace('"', r"\"").replace("\0,", '","')
    return f'{{"{quoted}"}}'.replace('"\0N"', "NULL")


def _storable(connection: BaseDatabaseWrapper, row: HistoryRow) -> tuple[Any, ...]:
    """The row's values as both databases can store them, in the same order."""
    return (
        row.id,
        _text(row.name, _LENGTHS["name"]),
        _text(row.func, _LENGTHS["func"]),
        _text(row.hook, _LENGTHS["hook"]),
        _pickled(row.args),
        _pickled(row.kwargs),
        _pickled(row.result),
        _text(row.group, _LENGTHS["group"]),
        _text(row.cluster, _LENGTHS["cluster"]),
        _moment(connection, row.started),
        _moment(connection, row.stopped),
        row.success,
        row.attempt_count,
    )


def _text(value: object, length: int) -> str | None:
    """Text that both databases can store: as long as the column, without NUL and lone surrogates."""
    if value is None:
        return None
    text = value if isinstance(value, str) else str(get_func_repr(value))
    if len(text) <= length and text.isprintable():
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:length]


def _pickled(value: object) -> str | None:
    """As `picklefield.fields.dbsafe_encode` does it, save for a deep copy that only lookups by value need."""
    if value is None:
        return None
    if type(value) is dict and not value:
        return _NO_KWARGS
    return b2a_base64(pickle.dumps(value, protocol=_PICKLE), newline=False).decode()


_NO_KWARGS = b2a_base64(pickle.dumps({}, protocol=_PICKLE), newline=False).decode()  # of most tasks


def _moment(connection: BaseDatabaseWrapper, moment: datetime) -> Any:
    """As Django's `adapt_datetimefield_value` does it: SQLite keeps moments as text, in the connection's time zone."""
    if connection.vendor == "postgresql":
        return moment
    if moment.tzinfo is UTC and connection.timezone is UTC:
        return str(moment)[: -len("+00:00")]
    return str(moment.astimezone(connection.timezone).replace(tzinfo=None))


def _aware(connection: BaseDatabaseWrapper, moment: datetime | str) -> datetime:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment if moment.tzinfo else moment.replace(tzinfo=connection.timezone)
