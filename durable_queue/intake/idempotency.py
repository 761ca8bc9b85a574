"""Queue the tasks of a request once, however often a client sends it: with an idempotency key, as Stripe's
(https://docs.stripe.com/api/idempotent_requests).

A key is kept in the transaction that queues the tasks. So a request that was not answered, because its process was killed or
the database did not answer in time, has its key if and only if it is queued.
"""

import hashlib
import json
from collections.abc import Sequence

from durable_queue.intake import group_commit, packaging
from durable_queue.intake.packaging import Packed
from durable_queue.store.broker import Broker
from durable_queue.store.keys import Key, NewRow, Request, Stored

ID_LENGTH = 32


class KeyReusedError(Exception):
    """Another request came with this key before."""


def key_of(key: str, *, scope: Sequence[str], request: Sequence[bytes]) -> Key:
    """The key as it is stored. `scope`: within which it is one key. `request`: what must be the same when it comes again."""
    whole = [hashlib.sha256(part).hexdigest() for part in request]  # each of one length: no two requests join to the same
    return Key(_digest(json.dumps([*scope, key])), _digest("".join(whole)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def request_of(tasks: Sequence[Packed], key: Key | None = None) -> Request:
    """The request for these tasks."""
    rows = [NewRow(task.payload, task.due) for task in tasks]
    return Request(rows, "".join(task.id for task in tasks), key)


async def aenqueue(tasks: Sequence[Packed], key: Key) -> list[str]:
    """Enqueue tasks together, unless the key has queued some before; return the ids of those that it has queued.

    The requests with a key have a group commit of their own: those without one never wait for a key that another host is
    about to commit. Raises KeyReusedError, and django.db.Error: then nothing is known to be queued.
    """
    request = request_of(tasks, key)
    return _ids_for(request, await group_commit.together(put, packaging.broker(), request))


def enqueue(tasks: Sequence[Packed], key: Key | None = None) -> list[str]:
    """The same in a thread without an event loop, with or without a key. It never joins a transaction of the caller."""
    request = request_of(tasks, key)
    (stored,) = group_commit.commit(Broker.enqueue_requests, packaging.broker(), [request])
    return _ids_for(request, stored)


def put(broker: Broker, requests: list[Request]) -> list[Stored | None]:
    """Enqueue requests that all have a key; return what stands under each. Of equal ones, the first is queued."""
    first: dict[str, Request] = {}
    for request in requests:
        first.setdefault(_place(request), request)
    places = sorted(first)  # so that of two batches, on two hosts, one waits for the other, and never each for the other
    stored = dict(zip(places, broker.enqueue_requests([first[place] for place in places]), strict=True))
    return [stored[_place(request)] for request in requests]


def _place(request: Request) -> str:
    return request.key.digest if request.key else request.task_ids


def _ids_for(request: Request, stored: Stored | None) -> list[str]:
    if stored and request.key and stored.fingerprint != request.key.fingerprint:
        raise KeyReusedError("Another request came with this key before")
    ids = stored.task_ids if stored else request.task_ids
    return [ids[start : start + ID_LENGTH] for start in range(0, len(ids), ID_LENGTH)]
