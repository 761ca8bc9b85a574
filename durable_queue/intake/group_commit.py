"""Group commit: everything enqueued during one iteration of the event loop is committed in one transaction.

A commit costs as much for one row as for twenty. While one commit is under way, the rows of the next one gather.

Django refuses its connections to a thread with a running event loop, because a call that waits for the database blocks the
whole loop. Here the commit blocks the loop on purpose: an INSERT takes no longer than handing it to a thread and back, and
the requests that it blocks form the next batch. Each wait has a limit: SQLite's busy timeout; PostgreSQL's connect, lock and
statement timeouts. While the database can't be written to, a client waits for about twice that limit: once for the batch
under way, and once for its own batch.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections
from django_q.conf import logger

from durable_queue.store.broker import Broker
from durable_queue.store.databases import table_of
from durable_queue.store.sqlite import checkpoints

CHECKPOINT = 1.0  # seconds between two SQLite checkpoints of this process; a running cluster leaves it nothing to do
GATHER = 0.05  # seconds that a batch gathers after a batch that failed: its requests then wait together
READ_ONLY = "25006"  # https://www.postgresql.org/docs/current/errcodes-appendix.html: after a failover, or on a full disk
LARGEST = 1000  # rows in one statement; a statement may have 32,766 values (https://www.sqlite.org/limits.html)


class _Batch:
    """The rows that one iteration of an event loop commits."""

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> None:
        self.broker = broker
        self.loop = loop
        self.rows: list[tuple[str, asyncio.Future[None]]] = []

    def add(self, payload: str) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = self.loop.create_future()
        self.rows.append((payload, future))
        return future

    def takes_more(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> bool:
        return self.broker is broker and self.loop is loop and len(self.rows) < LARGEST

    def commit(self) -> None:
        """Commit, then wake the waiting requests. On an error, each of them gets it: no row is known to be queued."""
        if _open.batch is self:
            _open.batch = None
        _open.pause = 0.0
        error: Exception | None = None
        with _out_of_loop():
            try:
                self.broker.enqueue_all([payload for payload, _ in self.rows])
            except Exception as raised:
                error = raised
                _open.pause = GATHER
                logger.error("Tasks could not be enqueued (%d): %s", len(self.rows), str(raised).strip())
                # The next batch opens a new connection if this one is broken, or leads to a server that can't be written to.
                if getattr(raised.__cause__, "sqlstate", None) == READ_ONLY:
                    connections[self.broker.using].close()
                else:
                    connections[self.broker.using].close_if_unusable_or_obsolete()
        for _, future in self.rows:
            if future.done():  # its request was cancelled
                continue
            if error:
                future.set_exception(error)
            else:
                future.set_result(None)


class _Open(threading.local):
    """The batch that gathers. Each thread has its own, since each thread runs at most one event loop."""

    batch: _Batch | None = None
    pause: float = 0.0  # seconds until the next batch is committed


_open = _Open()


@functools.cache
def _begin_checkpoints(using: str) -> None:
    if table_of(connections[using]).has_one_writer:
        checkpoints.begin(using, pause=CHECKPOINT)


os.register_at_fork(after_in_child=_begin_checkpoints.cache_clear)  # threads don't outlive a fork


async def enqueue(broker: Broker, payload: str) -> None:
    """Enqueue a payload; return once it is committed. Raises django.db.Error: then the payload is not known to be queued."""
    loop = asyncio.get_running_loop()
    batch = _open.batch
    if batch is None or not batch.takes_more(broker, loop):
        batch = _open.batch = _Batch(broker, loop)
        _begin_checkpoints(broker.using)
        if _open.pause:
            loop.call_later(_open.pause, batch.commit)
        else:
            loop.call_soon(batch.commit)  # after all that this iteration of the loop still runs
    await batch.add(payload)


@contextmanager
def _out_of_loop() -> Iterator[None]:
    """Hide the running loop: Django refuses a connection where it sees one (django.utils.asyncio.async_unsafe)."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
