"""A worker's connection that is reserved for queue traffic; a task may leave the other connections in any state.

All threads of a worker share it, one at a time.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from django.db import Error as DatabaseError
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend
from django_q.conf import Conf

from durable_queue.store.databases import table_of

P = ParamSpec("P")
R = TypeVar("R")

# The database alias of a worker's own connection.
QUEUE = "cluster_queue"


class _Worker:
    """The worker process that this is, if it is one."""

    pid = 0
    lock = threading.RLock()
    connection: BaseDatabaseWrapper


def queue_settings() -> dict[str, Any]:
    """The settings of the queue's own connections."""
    alias = Conf.ORM or "default"
    return dict(table_of(connections[alias]).own_settings(connections.settings[alias]))


class _Unlisted(dict[str, Any]):
    """The settings of all databases, without the queue's own in the list of them.

    `close_old_connections`, which django-q2 calls before each task, and a task's `connections.close_all()` go by that list.
    The first would ask after a connection that was used a moment ago, the second close what isn't the task's.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__({**settings, QUEUE: queue_settings()})
        self._listed = tuple(settings)

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)


def prepare_worker() -> None:
    """Give this worker process its alias."""
    connections.settings = _Unlisted(connections.settings)
    _Worker.pid, _Worker.lock = os.getpid(), threading.RLock()
    connections[QUEUE].inc_thread_sharing()
    _Worker.connection = connections[QUEUE]


def share() -> None:
    """Have the calling thread, one of the worker's own, use the worker's connection under the alias, too."""
    connections[QUEUE] = _Worker.connection


def lock() -> threading.RLock:
    """The lock to hold while one uses the worker's connection."""
    return _Worker.lock


def close() -> None:
    """Close the worker's connection; its next use opens it."""
    with _Worker.lock:
        connections[QUEUE].close()


@contextmanager
def held_if_free() -> Iterator[bool]:
    """Use the worker's connection alone, if no other thread does; gives whether that is so. It never waits."""
    if not _Worker.lock.acquire(blocking=False):
        yield False
        return
    try:
        yield True
    finally:
        _Worker.lock.release()


@contextmanager
def held() -> Iterator[None]:
    """Use the worker's connection alone. After a database error it is closed before anybody else uses it."""
    with _Worker.lock:
        try:
            yield
        except DatabaseError:
            close()
            raise


@contextmanager
def own_connection() -> Iterator[BaseDatabaseWrapper]:
    """A connection in autocommit mode, in no transaction of a task, from wherever a task may call: threads, forked children.

    It is the worker's own where that may be used; in a forked child one that is closed at the end.
    """
    if os.getpid() == _Worker.pid:
        with _Worker.lock:
            if not _Worker.connection.in_atomic_block:
                try:
                    yield _Worker.connection
                except DatabaseError:
                    _Worker.connection.close()  # the next use opens it
                    raise
                return
    settings = connections.settings.get(QUEUE) or queue_settings()
    connection = load_backend(settings["ENGINE"]).DatabaseWrapper(settings, QUEUE)
    try:
        yield connection
    finally:
        connection.close()


def outside_of_event_loops(ask: Callable[P, R]) -> Callable[P, R]:
    """Have a function that asks the database run where it may: not in a coroutine's thread, which Django refuses.

    There it runs in a thread of its own, for which the coroutine waits (django/utils/asyncio.py, `async_unsafe`).
    """

    @functools.wraps(ask)
    def anywhere(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return ask(*args, **kwargs)
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(ask, *args, **kwargs).result()

    return anywhere
