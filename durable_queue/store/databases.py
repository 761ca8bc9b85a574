"""The only module that asks which kind of database a connection leads to."""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.db import Error as DatabaseError
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from durable_queue.store.postgresql.table import PostgreSQLTable
from durable_queue.store.sqlite.table import SQLiteTable
from durable_queue.store.table import Table

READ_ONLY = "25006"  # https://www.postgresql.org/docs/current/errcodes-appendix.html: after a failover, or on a full disk
LACKS_ROOM = "53"  # the class of: the disk is full, there is no memory
# The lower byte of SQLite's codes says what kind of error it is (https://www.sqlite.org/rescode.html). These are no row's.
_OF_THE_FILE = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
}

_TABLES: dict[str, type[Table]] = {"sqlite": SQLiteTable, "postgresql": PostgreSQLTable}


def is_supported(using: str) -> bool:
    """Whether DATABASES has this alias, and the queue may be in that database. It is not connected to."""
    return using in connections and connections[using].vendor in _TABLES


def table_of(connection: BaseDatabaseWrapper) -> Table:
    """The queue's tables over this connection. Raises KeyError for an unsupported database."""
    return _TABLES[connection.vendor](connection)


def discard(alias: str) -> None:
    """Close the calling thread's connection, whatever state it was left in; the next use makes another.

    `close()` alone leaves one within an `atomic` unusable for good (`closed_in_transaction` in Django's base.py).
    """
    if hasattr(connections._connections, alias):  # type: ignore[attr-defined]
        with suppress(Exception):
            connections[alias].close()
        del connections[alias]


def is_read_only(error: BaseException) -> bool:
    """Whether a statement failed since its session may not write. It may never: another session has to begin."""
    return getattr(error.__cause__, "sqlstate", None) == READ_ONLY


def stops_all(error: BaseException) -> bool:
    """Whether a statement failed for a reason that any other has to expect: the disk is full, or nobody may write now."""
    state, code = getattr(error.__cause__, "sqlstate", None), getattr(error.__cause__, "sqlite_errorcode", 0)
    return is_read_only(error) or str(state).startswith(LACKS_ROOM) or code & 0xFF in _OF_THE_FILE


def close_if_read_only(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    """Have a connection whose session may not write end with the request that found out: a receiver of `connection_created`."""
    if _note_read_only not in connection.execute_wrappers:
        connection.execute_wrappers.append(_note_read_only)


def _note_read_only(execute: Callable[..., Any], sql: str, params: object, many: bool, context: dict[str, Any]) -> Any:
    try:
        return execute(sql, params, many, context)
    except DatabaseError as error:
        if is_read_only(error):
            context["connection"].close_at = 0.0  # Django's CONN_MAX_AGE is over
        raise


def widen_ids_after_migrate(sender: AppConfig, using: str, **kwargs: Any) -> None:
    """Widen the queue rows' ids: a receiver of `post_migrate`.

    No migration does it: where it had to leave that for later, it would count as applied.
    """
    if is_supported(using):
        table_of(connections[using]).widen_ids()
