"""Bounds on how long a transaction of the queue waits for locks of others."""

from durable_queue.store.table import Table

LONGEST = "2s"


def bound(table: Table) -> None:
    """Have the current transaction not wait for ever for a lock, unless the project sets `lock_timeout`.

    SQLite's waits have a bound anyway. Raises django.db.Error.
    """
    # https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-LOCK-TIMEOUT
    if not table.has_one_writer:
        table.run("SELECT set_config('lock_timeout', %s, true) WHERE current_setting('lock_timeout') = '0'", (LONGEST,))
