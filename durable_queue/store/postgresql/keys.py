"""Insert the tasks of requests and their idempotency keys, on PostgreSQL: one statement, hence one answer to wait for.

Between two statements of a transaction, a web process that is stopped would keep others waiting for its keys.
"""

from durable_queue.store.keys import take
from durable_queue.store.postgresql import claims, prepared
from durable_queue.store.rows import QUEUE_TABLE

_GIVEN = "SELECT digest, fingerprint, task_ids, statement_timestamp() FROM given ORDER BY place"
_EXPIRED = "statement_timestamp() - make_interval(secs => $5::float8)"

# Data-modifying statements of one WITH see each other's RETURNING, and not each other's rows
# (https://www.postgresql.org/docs/current/queries-with.html#QUERIES-WITH-MODIFYING).
INSERT_REQUESTS = prepared.Statement(
    "notifier_insert_requests",
    f"""
        WITH given AS MATERIALIZED (
            SELECT * FROM unnest($2::text[], $3::text[], $4::text[])
                WITH ORDINALITY AS given(digest, fingerprint, task_ids, place)
        ),
        stands AS ({take(_GIVEN, _EXPIRED)}),
        queued AS (
            INSERT INTO {QUEUE_TABLE} (key, payload, lock)
            SELECT $1::text, payload, {claims.lock_of("due")}
            FROM unnest($6::text[], $7::text[], $8::timestamptz[]) WITH ORDINALITY AS task(digest, payload, due, place)
            WHERE digest IS NULL OR digest IN (
                SELECT stands.digest FROM stands JOIN given USING (digest) WHERE stands.task_ids = given.task_ids
            )
            ORDER BY place
        )
        SELECT digest, fingerprint, task_ids FROM stands
    """,  # noqa: S608
)
