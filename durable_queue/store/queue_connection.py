"""Connections reserved for the queue's traffic; a task may leave the other connections in any state."""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend
from django_q.conf import Conf

from durable_queue.store.databases import table_of

P = ParamSpec("P")
R = TypeVar("R")

# The database alias of a worker's own connections.
QUEUE = "cluster_queue"

_worker = 0  # the worker process whose main thread has a connection under that alias


def queue_settings() -> dict[str, Any]:
    """The settings of the queue's own connections."""
    alias = Conf.ORM or "default"
    return table_of(connections[alias]).own_settings(connections.settings[alias])


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
    global _worker  # noqa: PLW0603
    connections.settings = _Unlisted(connections.settings)
    _worker = os.getpid()


@contextmanager
def own_connection() -> Iterator[BaseDatabaseWrapper]:
    """A connection in autocommit mode, in no transaction of a task, from wherever a task may call: threads, forked children.

    It is the worker's own in its main thread; elsewhere one that is closed at the end.
    """
    if os.getpid() == _worker and threading.current_thread() is threading.main_thread():
        own = connections[QUEUE]
        if not own.in_atomic_block:
            yield own
            return
    settings = queue_settings()
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
