"""The statements on PostgreSQL, where workers claim at the same time, and skip each other's rows."""

import functools
import math
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from operator import itemgetter
from typing import Any

from durable_queue.conf import cluster_conf
from durable_queue.models import Worker
from durable_queue.states import LEASES
from durable_queue.store import own_columns, wakeup
from durable_queue.store.keys import Request, Stored
from durable_queue.store.leases import home_queue
from durable_queue.store.moments import SAME_CLOCK
from durable_queue.store.postgresql import claims, ids, keys, prepared
from durable_queue.store.postgresql.arrays import array
from durable_queue.store.postgresql.dialect import PostgreSQLDialect
from durable_queue.store.rows import FIELDS, HISTORY_TABLE, QUEUE_TABLE, Claim, Claimed
from durable_queue.store.table import Table

# An announced commit holds an advisory lock, which ends with its transaction
# (https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS). The lock has two numbers. This first one
# marks our locks; the second one is the number of the announced commit.
_ANNOUNCED = int.from_bytes(b"Noti")
_INSERT_ANNOUNCED = prepared.Statement(
    "notifier_insert",
    f"""
        WITH announced AS MATERIALIZED (SELECT pg_advisory_xact_lock({_ANNOUNCED}, $3))
        INSERT INTO {QUEUE_TABLE} (key, payload, lock) SELECT $1, $2, {claims.FOR_NOW} FROM announced RETURNING id
    """,  # noqa: S608
)
_INSERT_ALL = prepared.Statement(
    "notifier_insert_all",
    f"""
        INSERT INTO {QUEUE_TABLE} (key, payload, lock)
        SELECT $1::text, payload, {claims.lock_of("$3::timestamptz")}
        FROM unnest($2::text[]) WITH ORDINALITY AS given(payload, place) ORDER BY place RETURNING id
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
    skip_locked = "FOR UPDATE SKIP LOCKED"
    # "C" compares bytes: the index stays valid when the server's locales are updated.
    part = 'substr("payload", 29, 40) COLLATE "C"'
    dialect = PostgreSQLDialect()
    columns_there = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
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

    def insert(self, queue: str, payloads: Sequence[str], due: datetime | None = None) -> int:
        if self.connection.autocommit and not self.connection.in_atomic_block:
            return int(prepared.run(self.connection, _INSERT_ALL, (queue, array(payloads), due))[-1][0])
        values = [value for payload in payloads for value in (queue, payload, due)]
        return int(self.run(_insert(len(payloads)), values)[-1][0])

    def answers_within(self, seconds: float) -> AbstractContextManager[None]:
        return prepared.answers_within(seconds)

    def insert_announced(self, queue: str, payload: str) -> int:
        """Insert one row, by an announced commit. The hint has its number; the woken worker has the server wait for it."""
        number, started = time.time_ns() & 0x7FFF_FFFF or 1, time.monotonic()
        values = (queue, payload, number)
        announce = functools.partial(wakeup.wake, queue, number)
        ((row,),) = prepared.run(self.connection, _INSERT_ANNOUNCED, values, meanwhile=announce)
        if wakeup.is_late(started):
            wakeup.wake(queue)
        return int(row)

    def insert_requests(self, queue: str, requests: Sequence[Request]) -> list[Stored | None]:
        given = [(*request.key, request.task_ids) for request in requests if request.key]
        rows = [(request.key and request.key.digest, *row) for request in requests for row in request.rows]
        key_columns, row_columns = (map(array, zip(*some, strict=True)) if some else ["{}"] * 3 for some in (given, rows))
        values = (queue, *key_columns, cluster_conf.idempotency.total_seconds(), *row_columns)
        found = prepared.run(self.connection, keys.INSERT_REQUESTS, values)
        stored = {digest: Stored(fingerprint, ids) for digest, fingerprint, ids in (map(bytes.decode, row) for row in found)}
        return [request.key and stored[request.key.digest] for request in requests]

    def claim(self, queue: str, asked: Claim) -> list[Claimed]:
        """Put the first due rows under a lease, and skip rows that another worker is about to take.

        https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE
        """
        found = self.run(claims.due(asked.limit), (queue, queue, home_queue(queue)))
        if found:
            among, ids = self.among([row for row, *_ in found])
            self.run(f"UPDATE {QUEUE_TABLE} SET lock = %s WHERE id {among}", (asked.lease, ids))  # noqa: S608
        return self.count_attempts([(row, datetime.fromisoformat(due), payload) for row, due, payload in found])

    def claim_at_once(self, worker: Worker, asked: Claim) -> list[Claimed]:
        # One round trip, two transactions: the second sees the commit that the first waited for, and doesn't fail with it.
        before = [(AWAIT_ANNOUNCED, (array(asked.announced),))] if asked.announced else []
        values = (worker.queue, asked.lease, worker.id, worker.lease, home_queue(worker.queue))
        found = prepared.run(self.connection, claims.at_once(asked.limit), values, before=before)
        rows = [(int(row), datetime.fromisoformat(due.decode()), payload.decode()) for row, due, payload, _ in found]
        rows.sort(key=itemgetter(1, 0))
        if any(tried == b"t" for *_, tried in found):
            return self.count_attempts(rows)
        return [(*row, 0, 0) for row in rows]

    def until_due(self, queue: str) -> float | None:
        rows = self.run(claims.UNTIL_DUE, (home_queue(queue), queue))
        if not rows or rows[0][0] >= LEASES.total_seconds() / 2:
            return None
        return math.inf if rows[0][1] else max(0.0, rows[0][0])

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

    def clock_ahead(self) -> timedelta:
        """The server's clock is the one that they share."""
        asked = datetime.now(UTC)
        ((there,),) = self.run("SELECT clock_timestamp()")
        took = datetime.now(UTC) - asked
        ahead = self.aware(there) - (asked + took / 2)
        return ahead if abs(ahead) >= SAME_CLOCK + took / 2 else timedelta(0)

    def insert_history(self, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
        # One array for each column: one round trip, and one plan for any number of rows.
        types = [*(field.db_type(self.connection) for field in FIELDS), *own_columns.TYPES["postgresql"].values()]
        arrays = ", ".join(f"%s::{kind}[]" for kind in types[: len(rows[0])])
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
    given = f"(VALUES {', '.join(['(%s::text, %s::text, %s::timestamptz)'] * rows)}) AS given(key, payload, due)"
    lock = claims.lock_of("due")
    return f"INSERT INTO {QUEUE_TABLE} (key, payload, lock) SELECT key, payload, {lock} FROM {given} RETURNING id"  # noqa: S608
