"""The columns that this app keeps on django-q2's history table. They hold only what may be lost.

django-q2's models don't know of these columns. When a migration of django-q2 changes the table on SQLite, Django makes a new
one with the model's columns only (`_remake_table` in its backends/sqlite3/schema.py). Until `migrate` has restored them, the
history does without.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from django.db import Error as DatabaseError
from django_q.models import Task

MIGRATION = "0011_history_columns"  # makes them; while it is not applied, they should not exist
WORKER = "cluster_worker"  # the worker of the successful attempt: `str(worker)`
QUEUED = "cluster_queued"  # when the task was queued, if its id doesn't tell
NAMES = (WORKER, QUEUED)
TYPES = {
    "sqlite": {WORKER: "varchar(300)", QUEUED: "datetime"},
    "postgresql": {WORKER: "varchar(300)", QUEUED: "timestamp with time zone"},
}
LOOK_AGAIN = 60.0  # seconds until a process that has missed them tries again

T = TypeVar("T")


class _Process:
    missing_until = 0.0  # monotonic


def with_own_columns(run: Callable[[bool], T]) -> T:
    """Run statements that name these columns, or, where they are missing, again without. `run` is told whether to name them.

    Raises django.db.Error. In a transaction on PostgreSQL, which the error has ended, that is the error itself: the caller's
    next try does without the columns.
    """
    if time.monotonic() < _Process.missing_until:
        return run(False)
    try:
        return run(True)
    except DatabaseError as error:
        if WORKER not in str(error) and QUEUED not in str(error):
            raise
        _Process.missing_until = time.monotonic() + LOOK_AGAIN
        try:
            return run(False)
        except DatabaseError:
            raise error from None


def note_restored() -> None:
    """They are there again."""
    _Process.missing_until = 0.0


def addition(vendor: str, name: str) -> str:
    """The statement that adds a column, on a database of this kind."""
    return f'ALTER TABLE "{Task._meta.db_table}" ADD COLUMN "{name}" {TYPES[vendor][name]} NULL'
