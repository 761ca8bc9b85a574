"""The only module that asks which kind of database a connection leads to."""

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from durable_queue.store.postgresql.table import PostgreSQLTable
from durable_queue.store.sqlite.table import SQLiteTable
from durable_queue.store.table import Table

_TABLES: dict[str, type[Table]] = {"sqlite": SQLiteTable, "postgresql": PostgreSQLTable}


def table_of(connection: BaseDatabaseWrapper) -> Table:
    """The queue's tables over this connection. Raises KeyError for an unsupported database."""
    return _TABLES[connection.vendor](connection)


def widen_ids_after_migrate(sender: AppConfig, using: str, **kwargs: Any) -> None:
    """Widen the queue rows' ids: a receiver of `post_migrate`.

    No migration does it: where it had to leave that for later, it would count as applied.
    """
    table_of(connections[using]).widen_ids()
