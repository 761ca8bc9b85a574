"""The statements on PostgreSQL, where workers claim at the same time, and skip each other's rows."""

import functools
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from importlib.util import find_spec
from operator import itemgetter
from typing import Any

from django.db.models.functions import Now

from durable_queue.conf import cluster_conf
from durable_queue.models import Worker
from durable_queue.store import wakeup
from durable_queue.store.postgresql import ids, prepared
from durable_queue.store.rows import (
    ATTEMPTS_TABLE,
    CLAIMED_BYTES,
    FIELDS,
    HISTORY_TABLE,
    QUEUE_TABLE,
    WORKERS_TABLE,
    Claim,
    Claimed,
)
from durable_queue.store.table import Table

# An announced commit holds an advisory lock, which ends with its transaction
# (https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS). The lock has two numbers. This first one
# marks our locks; the second one is the number of the announced commit.
_ANNOUNCED = int.from_bytes(b"Noti")
_INSERT_ANNOUNCED = prepared.Statement(
    "notifier_insert",
    f"""
        WITH announced AS MATERIALIZED (SELECT pg_advisory_xact_lock({_ANNOUNCED}, $4))
        INSERT INTO {QUEUE_TABLE} (key, payload, lock) SELECT $1, $2, $3 FROM announced RETURNING id
    """,  # noqa: S608
)
_INSERT_ALL = prepared.Statement(
    "notifier_insert_all",
    f"""
        INSERT INTO {QUEUE_TABLE} (key, payload, lock)
        SELECT $1::text, payload, $3::timestamptz FROM unnest($2::text[]) WITH ORDINALITY AS given(payload, place)
        ORDER BY place RETURNING id
    """,  # noqa: S608
)
AWAIT_ANNOUNCED = prepared.Statement(
    "notifier_await",
    f"""
        WITH bounded AS MATERIALIZED (SELECT set_config('lock_timeout', '{1000 * wakeup.AWAITED:.0f}ms', true))
        SELECT pg_advisory_xact_lock_shared({_ANNOUNCED}, number) FROM bounded, unnest($1::int[]) AS number
    """,  # noqa: S608
)

# The queue's own connections use the order of the indexes instead of sorting, and scan no table that has a usable index.
# After 20,000 rows came at once, each claim would otherwise read and sort all of them, as long as the server's statistics
# don't know of them, or if the claim was prepared before (https://www.postgresql.org/docs/current/runtime-config-query.html,
# sql-prepare.html). `jit` is off too: the high cost that the planner gives to the remaining scans would make it compile them.
_OFF = ("enable_seqscan", "enable_bitmapscan", "enable_sort", "jit")

# When a host is lost in the middle of a transaction, its backend keeps locks until the server notices: by default in two
# hours (https://www.postgresql.org/docs/current/runtime-config-connection.html#RUNTIME-CONFIG-TCP).
_NOTICED = (
    *("tcp_keepalives_idle=5", "tcp_keepalives_interval=2", "tcp_keepalives_count=3"),
    "idle_in_transaction_session_timeout=15s",
)

POOL_WAIT = 30  # seconds that a task waits for one of its worker's connections
POOL_IDLE = 60  # seconds after which an unused one is closed


class PostgreSQLTable(Table):
    """See `Table`."""

    has_one_writer = False
    # "C" compares bytes: the index stays valid when the server's locales are updated.
    part = 'substr("payload", 29, 40) COLLATE "C"'
    indexes_there = """
        SELECT tablename, indexname FROM pg_indexes
        WHERE tablename IN (%s, %s) AND schemaname = ANY(current_schemas(false))
    """

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def turn(self) -> AbstractContextManager[bool]:
        """No turns: here all processes write at the same time."""
        return nullcontext(False)

    def give_way(self) -> None:
        """Nothing to do: many write at a time."""

    def insert(self, queue: str, payloads: Sequence[str], due: datetime) -> int:
        if self.connection.autocommit and not self.connection.in_atomic_block:
            return int(prepared.run(self.connection, _INSERT_ALL, (queue, array(payloads), due))[-1][0])
        values = [value for payload in payloads for value in (queue, payload, due)]
        return int(self.run(_insert(len(payloads)), values)[-1][0])

    def answers_within(self, seconds: float) -> AbstractContextManager[None]:
        return prepared.answers_within(seconds)

    def insert_announced(self, queue: str, payload: str) -> int:
        """Insert one row, by an announced commit. The hint has its number; the woken worker has the server wait for it."""
        number, started = time.time_ns() & 0x7FFF_FFFF or 1, time.monotonic()
        values = (queue, payload, datetime.now(UTC), number)
        announce = functools.partial(wakeup.wake, queue, number)
        ((row,),) = prepared.run(self.connection, _INSERT_ANNOUNCED, values, meanwhile=announce)
        if wakeup.is_late(started):
            wakeup.wake(queue)
        return int(row)

    def claim(self, queue: str, asked: Claim) -> list[Claimed]:
        """Put the first due rows under a lease, and skip rows that another worker is about to take.

        https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE
        """
        # `lock` as text, which Python reads quicker than psycopg and Django do together.
        found = self.run(_due(asked.limit), (queue, asked.now))
        if found:
            among, ids = self.among([row for row, *_ in found])
            self.run(f"UPDATE {QUEUE_TABLE} SET lock = %s WHERE id {among}", (asked.lease, ids))  # noqa: S608
        return self.count_attempts(self.claimed(found))

    def claim_at_once(self, worker: Worker, asked: Claim) -> list[Claimed]:
        # One round trip, two transactions: the second sees the commit that the first waited for, and doesn't fail with it.
        before = [(AWAIT_ANNOUNCED, (array(asked.announced),))] if asked.announced else []
        values = (worker.queue, asked.now, asked.lease, worker.id, worker.lease)
        found = prepared.run(self.connection, _claim_statement(asked.limit), values, before=before)
        rows = [(int(row), datetime.fromisoformat(due.decode()), payload.decode()) for row, due, payload, _ in found]
        rows.sort(key=itemgetter(1, 0))
        if any(tried == b"t" for *_, tried in found):
            return self.count_attempts(rows)
        return [(*row, 0, 0) for row in rows]

    def let_commit_be_lost(self) -> None:
        self.run("SET LOCAL synchronous_commit = off")

    def among(self, ids: Collection[int]) -> tuple[str, object]:
        return "= ANY(%s)", array(ids)

    def ended(self, parts: Mapping[str, str]) -> list[str]:
        # The planner makes no joins of scalar subqueries: whatever its statistics say, it looks each id up in both indexes.
        sql = f"""
            SELECT asked.id FROM unnest(%s::text[], %s::text[]) AS asked(id, part)
            WHERE (SELECT count(*) FROM {QUEUE_TABLE} WHERE {self.part} = asked.part) = 0
            AND (SELECT count(*) FROM {HISTORY_TABLE} AS done WHERE done.id = asked.id AND NOT done.success) = 0
        """  # noqa: S608
        return [task_id for (task_id,) in self.run(sql, [array(parts), array(parts.values())])]

    def lock_group(self, name: str) -> None:
        self.run("SELECT pg_advisory_xact_lock(hashtext(%s))", [name])

    def moment(self, moment: datetime) -> datetime:
        return moment

    def now(self) -> Now:
        """The present moment, by the server's clock."""
        return Now()

    def insert_history(self, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
        # One array for each column: one round trip, and one plan for any number of rows.
        arrays = ", ".join(f"%s::{field.db_type(self.connection)}[]" for field in FIELDS)
        columns = [array(column) for column in zip(*rows, strict=True)]
        with self.connection.cursor() as cursor:
            cursor.execute(insert.format(f"SELECT * FROM unnest({arrays})"), columns)  # noqa: S608

    def own_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        own_options = (f"-c {option}" for option in (*(f"{name}=off" for name in _OFF), *_NOTICED))
        options = " ".join((settings["OPTIONS"].get("options") or "", *own_options))
        own = settings["OPTIONS"] | {"options": options.strip()}
        own.pop("pool", None)
        return settings | {"OPTIONS": own}

    def task_settings(self, settings: dict[str, Any], *, threads: int) -> dict[str, Any]:
        """Several threads share a pool (https://docs.djangoproject.com/en/5.2/ref/databases/#connection-pool)."""
        if threads == 1 or "pool" in settings["OPTIONS"] or not find_spec("psycopg_pool"):
            return settings
        pool = {"min_size": 0, "max_size": cluster_conf.connections, "max_idle": POOL_IDLE, "timeout": POOL_WAIT}
        return settings | {"CONN_MAX_AGE": 0, "OPTIONS": settings["OPTIONS"] | {"pool": pool}}

    def has_narrow_ids(self) -> bool:
        return ids.are_narrow(self.connection)

    def widen_ids(self) -> None:
        ids.widen(self.connection)

    def has_open_transaction(self) -> bool:
        return bool(self.connection.connection.info.transaction_status)  # 0: PQTRANS_IDLE


@functools.cache
def _insert(rows: int) -> str:
    return f"INSERT INTO {QUEUE_TABLE} (key, payload, lock) VALUES {', '.join(['(%s, %s, %s)'] * rows)} RETURNING id"  # noqa: S608


def _bounded(rows: str) -> str:
    """The first of these rows whose payloads together are not too long, one at least. It reads no payload."""
    return f"""
        SELECT * FROM (
            SELECT *, sum(octet_length(payload)) OVER (ROWS UNBOUNDED PRECEDING) AS size,
                row_number() OVER () AS place_in_batch
            FROM {rows}
        ) AS measured WHERE size <= {CLAIMED_BYTES} OR place_in_batch = 1
    """  # noqa: S608


@functools.cache
def _due(limit: int) -> str:
    locked = f"SELECT id, lock, payload FROM {QUEUE_TABLE} WHERE key = %s AND lock <= %s ORDER BY lock, id LIMIT {limit:d}"  # noqa: S608
    return f"""
        WITH locked AS MATERIALIZED ({locked} FOR UPDATE SKIP LOCKED)
        SELECT id, lock::text AS due, payload FROM ({_bounded("locked")}) AS bounded
    """  # noqa: S608


# `locked` locks the due rows in their newest version, but gives them as they were when the statement began. A row that
# another worker claimed in between, and lost again, has another place (`ctid`) by now. `due` looks each place up again, and
# leaves out the rows that are no longer there. `me` takes the lease, once, and only if there is a row to hold. This commit
# need not be on the disk: after a crash of the server the rows are due again, and the worker finds its lease lost.
@functools.cache
def _claim_statement(limit: int) -> prepared.Statement:
    sql = f"""
        WITH locked AS MATERIALIZED (
            SELECT id, lock, payload, ctid AS place,
                (SELECT count(*) FROM {ATTEMPTS_TABLE} WHERE row = {QUEUE_TABLE}.id) > 0 AS was_tried
            FROM {QUEUE_TABLE} WHERE key = $1 AND lock <= $2
            ORDER BY lock, id LIMIT {limit:d} FOR UPDATE SKIP LOCKED
        ),
        bounded AS MATERIALIZED ({_bounded("locked")}),
        due AS MATERIALIZED (SELECT * FROM bounded WHERE (SELECT true FROM {QUEUE_TABLE} seen WHERE seen.ctid = place)),
        me AS (
            UPDATE {WORKERS_TABLE} SET lease = $3, lease_due = (SELECT min(lock) FROM due)
            WHERE id = $4 AND lease IS NOT DISTINCT FROM $5 AND EXISTS (SELECT FROM due)
                AND set_config('synchronous_commit', 'off', true) = 'off'
            RETURNING lease
        )
        UPDATE {QUEUE_TABLE} SET lock = me.lease FROM due, me WHERE {QUEUE_TABLE}.ctid = due.place
        RETURNING due.id, due.lock, due.payload, due.was_tried
    """  # noqa: S608
    return prepared.Statement(f"notifier_claim_{limit}", sql)


def array(values: Iterable[object]) -> str:
    """One or more values as a PostgreSQL array literal (https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO).

    psycopg builds the literal item by item in Python, which takes five times as long. Here the character NUL, which no text
    in PostgreSQL can hold, marks the place between two values, and a value that is NULL.
    """
    texts = ["\0N" if value is None else value if isinstance(value, str) else str(value) for value in values]
    quoted = "\0,".join(texts).replace("\\", r"\\").replace('"', r"\"").replace("\0,", '","')
    return f'{{"{quoted}"}}'.replace('"\0N"', "NULL")
