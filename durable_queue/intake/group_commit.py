"""Group commit: everything enqueued during one iteration of the event loop is committed in one transaction.

A commit costs as much for one row as for twenty. While one is under way, the next rows gather.

Django keeps its connections away from event loops, where a caller that waits for the database holds up everybody. Here that
is the point. An INSERT takes no longer than handing it to a thread and back. The requests that it holds up are the next
batch. Each wait has a limit: SQLite's busy timeout; PostgreSQL's connect, lock and statement timeouts. While the database
can't be written to, a client waits for about twice that limit: once for the batch under way, and once for its own.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections

from durable_queue.store.broker import Broker
from durable_queue.store.databases import table_of
from durable_queue.store.sqlite import checkpoints

CHECKPOINT = 1.0  # seconds between two SQLite checkpoints of this process: a cluster, while it runs, leaves it nothing to do
GATHER = 0.05  # seconds that a batch gathers after one that failed: the requests wait together
LARGEST = 1000  # rows in one statement, which may have 32,766 values (https://www.sqlite.org/limits.html)


class _Batch:
    """The rows of one iteration of a loop."""

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
        """Commit, then tell those who wait. Django's error is everybody's: no row of the batch is known to be queued."""
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
                connections[
                    self.broker.using
                ].close_if_unusable_or_obsolete()  # the next batch opens a new connection, if need be
        for _, future in self.rows:
            if future.done():  # its request was cancelled
                continue
            if error:
                future.set_exception(error)
            else:
                future.set_result(None)


class _Open(threading.local):
    """The batch that gathers, one for each thread, as there is one running loop for each."""

    batch: _Batch | None = None
    pause: float = 0.0  # seconds until it is committed


_open = _Open()


@functools.cache
def _begin_checkpoints(using: str) -> None:
    if table_of(connections[using]).has_one_writer:
        checkpoints.begin(using, pause=CHECKPOINT)


os.register_at_fork(after_in_child=_begin_checkpoints.cache_clear)  # threads don't outlive a fork


async def enqueue(broker: Broker, payload: str) -> None:
    """Queue a signed package; return once it is committed. Raises django.db.Error, and then it is not known to be."""
    loop = asyncio.get_running_loop()
    batch = _open.batch
    if batch is None or not batch.takes_more(broker, loop):
        batch = _open.batch = _Batch(broker, loop)
        _begin_checkpoints(broker.using)
        if _open.pause:
            loop.call_later(_open.pause, batch.commit)
        else:
            loop.call_soon(batch.commit)  # after all that this iteration of the loop has in hand
    await batch.add(payload)


@contextmanager
def _out_of_loop() -> Iterator[None]:
    """Use a connection here, which Django refuses where a loop runs (django.utils.asyncio.async_unsafe)."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
