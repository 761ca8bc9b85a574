"""Bounds on how long a transaction of the queue waits for locks of others, and keeps its own while its host is away."""

from durable_queue.store.table import Table

LONGEST = "2s"
SILENT = "15s"  # after which the server ends the transaction of a host that was lost or frozen


def bound(table: Table) -> None:
    """Have the current transaction neither wait nor keep others waiting for ever, unless the project sets its own bounds.

    SQLite's waits have a bound anyway. Raises django.db.Error.
    """
    # https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-LOCK-TIMEOUT
    if not table.has_one_writer:
        bounds = "(VALUES ('lock_timeout', %s), ('idle_in_transaction_session_timeout', %s)) AS bound(name, longest)"
        table.run(f"SELECT set_config(name, longest, true) FROM {bounds} WHERE current_setting(name) = '0'", (LONGEST, SILENT))  # noqa: S608
