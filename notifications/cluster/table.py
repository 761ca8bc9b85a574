"""The statements that every task goes through, on django-q2's queue and history tables, in SQL.

Django's ORM can say each of them, but takes longer to build them than the database takes to run them: with the ORM a
worker needs 1.8 times as long for a task. All else in this package goes through the ORM.
"""

import functools
import pickle
from base64 import b64encode
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django_q.models import OrmQ, Task
from django_q.utils import get_func_repr

from notifications.cluster.models import Attempt, Worker

QUEUE = OrmQ._meta.db_table
HISTORY = Task._meta.db_table
ATTEMPTS = Attempt._meta.db_table
WORKERS = Worker._meta.db_table
# A claimed row: its id, when it was due, its payload, the attempts at it so far, and how many of them were lost.
Claimed = tuple[int, datetime, str, int, int]

_LOST = Attempt.Outcome.LOST.value
_INSERT_ONE = f"INSERT INTO {QUEUE} (key, payload, lock) VALUES ($1, $2, $3) RETURNING id"  # noqa: S608
# libpq's PGRES_COMMAND_OK, PGRES_TUPLES_OK and PG_DIAG_SQLSTATE, and the states of a statement that this connection does not
# know, and of one whose table has changed since (https://www.postgresql.org/docs/current/errcodes-appendix.html). psycopg
# names them, but is there only where it is used.
_COMMAND_OK, _TUPLES_OK, _SQLSTATE = 1, 2, ord("C")
_NOT_PREPARED, _OUTDATED = b"26000", b"0A000"
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


def _run_prepared(connection: BaseDatabaseWrapper, name: str, sql: str, values: Sequence[object]) -> list[tuple[bytes, ...]]:
    """On PostgreSQL, run a statement that gives back rows in a transaction of its own; return their columns as text.

    By libpq itself (https://www.psycopg.org/psycopg3/docs/api/pq.html), prepared once for each connection. Django's cursors
    have the server plan each statement anew, and psycopg's wait for it in many steps: on an idle system, where nothing of
    that is in the processor's caches, a claim takes 2.3 ms by them, and 0.9 so.
    """
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    psycopg: Any = connection.Database  # type: ignore[attr-defined]
    with connection.wrap_database_errors:
        libpq, texts = connection.connection.pgconn, [str(value).encode() for value in values]
        if any(b"\0" in text for text in texts):  # libpq would take it for the end
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        result = libpq.exec_prepared(name.encode(), texts)
        state = None if result.status == _TUPLES_OK else result.error_field(_SQLSTATE)
        if state == _OUTDATED:
            libpq.exec_(f"DEALLOCATE {name}".encode())
        if state in (_NOT_PREPARED, _OUTDATED):
            result = libpq.prepare(name.encode(), sql.encode())
            if result.status == _COMMAND_OK:
                result = libpq.exec_prepared(name.encode(), texts)
        if result.status != _TUPLES_OK:
            lost = connection.connection.closed
            raise psycopg.OperationalError(result.get_error_message()) if lost else psycopg.errors.error_from_result(result)
    columns = range(result.nfields)
    return [tuple(result.get_value(row, column) for column in columns) for row in range(result.ntuples)]


def insert(connection: BaseDatabaseWrapper, queue: str, payloads: Sequence[str], due: datetime) -> int:
    """Put rows into the queue, by one statement and so in one transaction; return the last one's id."""
    moment = _moment(connection, due)
    values = [value for payload in payloads for value in (queue, payload, moment)]
    if connection.vendor == "postgresql":
        if len(payloads) == 1 and connection.autocommit and not connection.in_atomic_block:
            return int(_run_prepared(connection, "notifier_insert", _INSERT_ONE, values)[0][0])
        return int(run(connection, _insert_sql("(%s, %s, %s)", len(payloads), "RETURNING id"), values)[-1][0])
    # Without RETURNING, which would leave the commit to the fetching of its rows.
    return _run_on_sqlite(connection, _insert_sql("(?, ?, ?)", len(payloads)), values)[1]


@functools.cache
def _insert_sql(row: str, rows: int, end: str = "") -> str:
    return f"INSERT INTO {QUEUE} (key, payload, lock) VALUES {', '.join([row] * rows)} {end}"  # noqa: S608


def next_due(connection: BaseDatabaseWrapper, queue: str) -> datetime | None:
    """When the first row is due, or till when it is held; None when there is no row."""
    rows = run(connection, f"SELECT lock FROM {QUEUE} WHERE key = %s AND lock IS NOT NULL ORDER BY lock, id LIMIT 1", (queue,))  # noqa: S608
    return _aware(connection, rows[0][0]) if rows else None


def claim(connection: BaseDatabaseWrapper, queue: str, *, now: datetime, lease: datetime, limit: int) -> list[Claimed]:
    """Put the first rows that are due under a lease; return them.

    PostgreSQL passes over the rows that another worker is about to take
    (https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE); on SQLite there is one writer at a time.
    """
    if connection.vendor == "postgresql":
        due = f"SELECT id, lock, payload FROM {QUEUE} WHERE key = %s AND lock <= %s ORDER BY lock, id"  # noqa: S608
        rows = run(connection, f"{due} LIMIT {limit:d} FOR UPDATE SKIP LOCKED", (queue, now))
        if rows:
            run(connection, f"UPDATE {QUEUE} SET lock = %s WHERE id = ANY(%s)", (lease, [row for row, *_ in rows]))  # noqa: S608
        return count_attempts(connection, rows)
    rows = run(connection, _due_on_sqlite(limit), (_LOST, queue, _moment(connection, now)))
    if rows:
        last, last_due, *_ = rows[-1]
        run(connection, _HOLD_ON_SQLITE, (_moment(connection, lease), queue, last_due, last))
    return _claimed(connection, rows)


def claim_at_once(
    connection: BaseDatabaseWrapper, worker: Worker, *, now: datetime, lease: datetime, limit: int
) -> list[Claimed]:
    """Claim for a worker that holds nothing, in a transaction of its own; return what `claim` does.

    Nothing when nothing is due, or the worker's row is gone. This is what an idle cluster does with a task before it runs:
    on PostgreSQL one journey to the server instead of eight, on SQLite a third of the Python.
    """
    claim = _claim_at_once_on_postgresql if connection.vendor == "postgresql" else _claim_at_once_on_sqlite
    return _claimed(connection, claim(connection, worker, now, lease, limit))


def _claim_at_once_on_sqlite(
    connection: BaseDatabaseWrapper, worker: Worker, now: datetime, lease: datetime, limit: int
) -> list[Any]:
    if connection.connection is None:
        connection.ensure_connection()
    with connection.wrap_database_errors, connection.connection as driver:  # which commits, or rolls back
        driver.execute("BEGIN IMMEDIATE")
        values = (_LOST, worker.queue, _moment(connection, now))
        due: list[Any] = driver.execute(_due_on_sqlite(limit), values).fetchall()
        if not due:
            return []
        name = _moment(connection, lease)
        if not driver.execute(_LEASE_ON_SQLITE, (name, due[0][1], worker.id)).rowcount:
            return []
        last, last_due, *_ = due[-1]
        driver.execute(_HOLD_ON_SQLITE, (name, worker.queue, last_due, last))
    return due


def _claim_at_once_on_postgresql(
    connection: BaseDatabaseWrapper, worker: Worker, now: datetime, lease: datetime, limit: int
) -> list[Any]:
    values = (worker.queue, now, lease, worker.id)
    found = _run_prepared(connection, f"notifier_claim_{limit}", _claim_at_once_sql(limit), values)
    rows = [(int(row), due.decode(), payload.decode()) for row, due, payload, _ in found]
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
def _claim_at_once_sql(limit: int) -> str:
    return f"""
        WITH relaxed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
        due AS MATERIALIZED (
            SELECT id, lock, payload, (SELECT count(*) FROM {ATTEMPTS} WHERE row = {QUEUE}.id) > 0
                OR ctid IS DISTINCT FROM (SELECT ctid FROM {QUEUE} seen WHERE id = {QUEUE}.id) AS may_have_been_tried
            FROM {QUEUE}, relaxed WHERE key = $1 AND lock <= $2
            ORDER BY lock, id LIMIT {limit:d} FOR UPDATE OF {QUEUE} SKIP LOCKED
        ),
        me AS (
            UPDATE {WORKERS} SET lease = $3, lease_due = (SELECT min(lock) FROM due)
            WHERE id = $4 AND lease IS NULL AND EXISTS (SELECT FROM due) RETURNING lease
        ),
        claimed AS (
            UPDATE {QUEUE} SET lock = me.lease FROM due, me WHERE {QUEUE}.id = due.id RETURNING due.*
        )
        SELECT * FROM claimed ORDER BY lock, id
    """  # noqa: S608


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
        return "= ANY(%s)", list(ids)
    return "IN (SELECT value FROM json_each(%s))", str(list(ids))  # https://www.sqlite.org/json1.html#jeach


def _claimed(connection: BaseDatabaseWrapper, rows: list[Any]) -> list[Claimed]:
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
            columns = [list(column) for column in zip(*rows, strict=True)]
            cursor.execute(sql.format(f"SELECT * FROM unnest({arrays})"), columns)  # noqa: S608
        else:
            cursor.executemany(sql.format(f"VALUES ({', '.join(['%s'] * len(names))})"), rows)


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
    return None if value is None else b64encode(pickle.dumps(value, protocol=_PICKLE)).decode()


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
