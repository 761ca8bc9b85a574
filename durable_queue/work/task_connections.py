"""The database connections of the tasks themselves, which are none of the queue's: how many, how patient, how they end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.utils import load_backend
from django_q.conf import logger

from durable_queue.store.databases import is_read_only, table_of
from durable_queue.store.queue_connection import QUEUE

Wrapper = Callable[[Callable[..., Any], str, object, bool, dict[str, Any]], Any]  # Django's "execute wrapper"

_own: dict[str, dict[str, Any]] = {}  # by the alias: the settings of connections in the worker's own threads

# How a statement begins that changes a session, not data. A connection that has run one is closed after the task, and so is
# one that was read-only.
OF_SESSION = ("SET ", "RESET ", "PRAGMA ", "ATTACH ", "DETACH ", "LISTEN ", "SELECT SET_CONFIG", "SELECT PG_ADVISORY_LOCK")
_altered = WeakSet[BaseDatabaseWrapper]()


class _Here(threading.local):
    """What is known of the calling thread."""

    may_have_open = True  # a connection. Most tasks open none, and going through all aliases took 9 % of a worker's time


_here = _Here()


def prepare_worker(*, threads: int) -> None:
    """Settle, in a new worker, how its tasks' connections behave: see `Table.task_settings`."""
    connection_created.connect(_watch_session, weak=False)
    for alias in connections:
        with suppress(LookupError, ImproperlyConfigured):  # of a database that the queue knows nothing about
            settings = connections.settings[alias]
            own = table_of(connections[alias]).task_settings(settings, threads=threads)
            if own["OPTIONS"].get("pool") and not settings["OPTIONS"].get("pool"):
                # For the worker's own threads: a thread that a task starts takes a connection along when it ends.
                _own[alias] = own
                _connect(alias).pool.open()  # type: ignore[attr-defined]  # now: no task is to have started its threads
            else:
                settings.update(own)


def join_worker() -> None:
    """In a new thread of the worker's own: its connections come from the worker's pool."""
    for alias in _own:
        connections[alias] = _connect(alias)


def _connect(alias: str) -> BaseDatabaseWrapper:
    wrapper: BaseDatabaseWrapper = load_backend(_own[alias]["ENGINE"]).DatabaseWrapper(_own[alias], alias)
    return wrapper


def wrap(connection: BaseDatabaseWrapper, wrapper: Wrapper) -> None:
    """Have the statements of a task's connection pass through a wrapper, once."""
    if connection.alias != QUEUE and wrapper not in connection.execute_wrappers:
        connection.execute_wrappers.append(wrapper)


def _watch_session(connection: BaseDatabaseWrapper, **_: object) -> None:
    _here.may_have_open |= connection.alias != QUEUE
    wrap(connection, _note_change)


def _note_change(execute: Callable[..., Any], sql: str, params: object, many: bool, context: dict[str, Any]) -> Any:
    if sql[:24].lstrip().upper().startswith(OF_SESSION):
        _altered.add(context["connection"])
    try:
        return execute(sql, params, many, context)
    except DatabaseError as error:
        if is_read_only(error):
            _altered.add(context["connection"])
        raise


def close_old() -> None:
    """Before a task, in its thread: Django's `close_old_connections`."""
    if _here.may_have_open:
        close_old_connections()


def clean() -> bool:
    """After a task, in its thread: roll back what it has left open, and let go of connections that are not to be kept.

    Returns whether a transaction was open.
    """
    if not _here.may_have_open:
        return False
    was_open = is_open = False
    for connection in connections.all(initialized_only=True):
        if connection.connection is None and not connection.in_atomic_block:
            continue
        try:
            is_in_transaction = _is_in_transaction(connection)
            was_open |= is_in_transaction
            is_as_it_was = not is_in_transaction and connection.autocommit == connection.settings_dict["AUTOCOMMIT"]
            if connection in _altered:
                _altered.discard(connection)
                connection.connection.close()  # one of a pool would come back as it is
                connection.close()
            connection.close_if_unusable_or_obsolete()
            if not is_as_it_was or connection.settings_dict["OPTIONS"].get("pool"):
                connection.close()
        except Exception as error:
            logger.warning("A task's connection to %r can't be cleaned: %s", connection.alias, error)
        is_open |= connection.connection is not None
        if connection.in_atomic_block:  # it can't be used any more
            del connections[connection.alias]
            if connection.alias in _own:
                connections[connection.alias] = _connect(connection.alias)
    _here.may_have_open = is_open
    return was_open


def has_open_transaction() -> bool:
    """Whether the calling thread is in a transaction of a task."""
    return _here.may_have_open and any(map(_is_in_transaction, connections.all(initialized_only=True)))


def _is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    if connection.connection is None or connection.in_atomic_block:
        return connection.in_atomic_block
    try:
        return table_of(connection).has_open_transaction()
    except LookupError:
        return False


def with_one_writer() -> Iterator[BaseDatabaseWrapper]:
    """The calling thread's connections to databases that let in one writer at a time."""
    for alias in connections:
        with suppress(LookupError, ImproperlyConfigured):
            if table_of(connections[alias]).has_one_writer:
                yield connections[alias]


def close_all() -> None:
    """In a thread that ends: close its connections."""
    with suppress(Exception):
        connections.close_all()
