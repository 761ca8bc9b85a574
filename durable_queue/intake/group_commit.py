"""Group commit: everything enqueued during one iteration of the event loop is committed in one transaction.

A commit costs as much for one row as for twenty. While one commit is under way, the rows of the next one gather.

Django refuses its connections to a thread with a running event loop, because a call that waits for the database blocks the
whole loop. Here the commit blocks the loop on purpose: an INSERT takes no longer than handing it to a thread and back, and
the requests that it blocks form the next batch. Each wait has a limit: SQLite's busy timeout; PostgreSQL's connect timeout,
and `ANSWER`. While the database can't be written to, a client waits for that limit, which the batch under way uses up, and for
`AGAIN`: the batches that follow a failed one are less patient, or those whose connections the loop had no time to accept would
wait for one limit after the other.
"""

import asyncio
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

from django.db import OperationalError, connections
from django_q.conf import logger

from durable_queue.store.answers import NoAnswerError, Pending
from durable_queue.store.broker import Broker
from durable_queue.store.databases import is_read_only, table_of
from durable_queue.store.sqlite import checkpoints

CHECKPOINT = 1.0  # seconds between two SQLite checkpoints of this process; a running cluster leaves it nothing to do
GATHER = 0.1  # seconds that a batch gathers after a batch that failed: its requests then wait together
ANSWER = 1.0  # seconds that a commit's answer may take; then its requests get 503, and nobody knows whether they are queued
AGAIN = 0.5  # seconds that a commit may take, with all its waits, after one that failed …
IMPATIENT = 3.0  # … for so many seconds; then one may take its time again, since the database may be slow, and no more
LARGEST = 1000  # rows in one statement; a statement may have 32,766 values (https://www.sqlite.org/limits.html)


T = TypeVar("T")
R = TypeVar("R")
Put = Callable[[Broker, list[T]], Sequence[R]]  # puts what was gathered into the queue; gives an answer for each of it


class _Batch(Generic[T, R]):
    """What one iteration of an event loop commits."""

    def __init__(self, put: Put[T, R], broker: Broker, loop: asyncio.AbstractEventLoop) -> None:
        self.put = put
        self.broker = broker
        self.loop = loop
        self.entries: list[tuple[T, asyncio.Future[R]]] = []

    def add(self, entry: T) -> "asyncio.Future[R]":
        future: asyncio.Future[R] = self.loop.create_future()
        self.entries.append((entry, future))
        return future

    def takes_more(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> bool:
        return self.broker is broker and self.loop is loop and len(self.entries) < LARGEST

    def commit(self) -> None:
        """Commit, then wake the waiting requests. On an error, each of them gets it: none is known to be queued."""
        if _open.batches.get(self.put) is self:
            del _open.batches[self.put]
        _open.pause = 0.0
        error, answers = None, cast("Sequence[R]", [None] * len(self.entries))
        with _out_of_loop():
            try:
                answers = commit(self.put, self.broker, [entry for entry, _ in self.entries])
            except Exception as raised:
                error = raised
                _open.pause = GATHER
        for (_, future), answer in zip(self.entries, answers, strict=True):
            if future.done():  # its request was cancelled
                continue
            if error:
                future.set_exception(error)
            else:
                future.set_result(answer)


def commit(put: Put[T, R], broker: Broker, entries: list[T]) -> Sequence[R]:
    """`put(broker, entries)` in the calling thread, with the limits of this module on its waits.

    An error is logged, and raised: then nothing is known to be queued.
    """
    _begin_checkpoints(broker.using)
    try:
        return _commit(put, broker, entries)
    except Exception as error:
        _tell(error, broker, len(entries))
        raise


def _commit(put: Put[T, R], broker: Broker, entries: list[T]) -> Sequence[R]:
    if _open.pending:
        if not _open.pending.is_answered():
            raise OperationalError("the database has not answered an earlier commit yet")
        _open.pending, _open.impatient_until = None, 0.0
        logger.warning("The database answers again")
    # Before the time begins to run: to connect may take longer, and a new connection says nothing of its autocommit yet.
    broker.database.ensure_connection()
    try:
        table, is_again = broker.table, time.monotonic() < _open.impatient_until
        with table.waits_at_most(AGAIN) if is_again else table.answers_within(ANSWER):
            answers = put(broker, entries)
        _open.impatient_until = 0.0
    except Exception as error:
        if not is_again:
            _open.impatient_until = time.monotonic() + IMPATIENT
        if isinstance(error, NoAnswerError):
            _open.pending = error.pending  # until it has come, nothing is put into the queue
        raise
    return answers


def _tell(error: Exception, broker: Broker, count: int) -> None:
    """Say so, once for all. The next batch opens a new connection if this one is of no use any more."""
    if not _open.pending or isinstance(error, NoAnswerError):
        logger.error("Tasks could not be enqueued (%d): %s", count, str(error).strip())
    if not _open.pending:
        connection = connections[broker.using]
        connection.close() if is_read_only(error) else connection.close_if_unusable_or_obsolete()


class _Open(threading.local):
    """The batches that gather. Each thread has its own, since each thread runs at most one event loop."""

    def __init__(self) -> None:
        self.batches: dict[Put[Any, Any], _Batch[Any, Any]] = {}  # by what puts them into the queue

    pause: float = 0.0  # seconds until the next batch is committed
    impatient_until: float = 0.0  # monotonic: until then, a batch waits for `AGAIN` only
    pending: Pending | None = None  # the answer to an earlier batch, which has not come in time


_open = _Open()


@functools.cache
def _begin_checkpoints(using: str) -> None:
    if table_of(connections[using]).has_one_writer:
        checkpoints.begin(using, pause=CHECKPOINT)


os.register_at_fork(after_in_child=_begin_checkpoints.cache_clear)  # threads don't outlive a fork


async def enqueue(broker: Broker, payload: str) -> None:
    """Enqueue a payload; return once it is committed. Raises django.db.Error: then the payload is not known to be queued."""
    await together(_put, broker, payload)


def _put(broker: Broker, payloads: list[str]) -> list[None]:
    broker.enqueue_all(payloads)
    return [None] * len(payloads)


async def together(put: Put[T, R], broker: Broker, entry: T) -> R:
    """Have `put` called with this entry and all others of this iteration of the event loop; return its answer for this one.

    Raises what it raises; a django.db.Error: then the entry is not known to be queued.
    """
    loop = asyncio.get_running_loop()
    batch = _open.batches.get(put)
    if batch is None or not batch.takes_more(broker, loop):
        batch = _open.batches[put] = _Batch(put, broker, loop)
        if _open.pause:
            loop.call_later(_open.pause, batch.commit)
        else:
            loop.call_soon(batch.commit)  # after all that this iteration of the loop still runs
    answer: R = await batch.add(entry)
    return answer


@contextmanager
def _out_of_loop() -> Iterator[None]:
    """Hide the running loop: Django refuses a connection where it sees one (django.utils.asyncio.async_unsafe)."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
