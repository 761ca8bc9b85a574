"""How often somebody who waits looks, and until when."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from django.db import connections

from durable_queue.store.databases import table_of
from durable_queue.waiting.database import alias

FIRST, LAST = 0.01, 0.2  # seconds between two looks, at first, and at last
SHARE = 0.1  # of the time that somebody has waited: the answer is late by no more, within these bounds

T = TypeVar("T")


def looks(wait: float, *, in_database: bool = True) -> Iterator[None]:
    """Come back for each look, until `wait` milliseconds are over: at least once; for ever if it is below 0.

    `in_database`: whether it is the database that is looked at.
    """
    began = time.monotonic()
    while True:
        yield
        waited = time.monotonic() - began
        pause = min(LAST, max(FIRST, waited * SHARE))
        if wait >= 0:
            pause = min(pause, wait / 1000 - waited)
        if pause <= 0 or (in_database and _is_standing()):
            return
        time.sleep(pause)


def _is_standing() -> bool:
    """Whether the caller is in a transaction that would see the same for ever: SQLite's show the database as it was."""
    connection = connections[alias()]
    return bool(connection.in_atomic_block and table_of(connection).has_one_writer)


def wait_for(find: Callable[[], T | None], is_over: Callable[[], bool], wait: float, *, in_database: bool = True) -> T | None:
    """What `find` gives once that isn't None; None when the time is up, or nothing can come any more."""
    for _ in looks(wait, in_database=in_database):
        found = find()
        if found is not None:
            return found
        if wait and is_over():
            return find()  # which may have come between the two
    return None
