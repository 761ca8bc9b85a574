"""The database connections of the tasks themselves, which are none of the queue's: how many, how patient, how they end."""

from contextlib import suppress

from django.db import connections

from durable_queue.store.databases import table_of


def prepare_worker(*, threads: int) -> None:
    """Settle, in a new worker, how its tasks' connections behave: see `Table.task_settings`."""
    for alias in connections:
        with suppress(LookupError):  # of a database that the queue knows nothing about
            settings = connections.settings[alias]
            settings.update(table_of(connections[alias]).task_settings(settings, threads=threads))
        pool = getattr(connections[alias], "pool", None)
        if pool:
            pool.open()  # now, so that its threads are the worker's own: no task has started them


def clean() -> None:
    """After a task, in its thread: roll back what it has left open, and return its connections to their pool."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block or connection.settings_dict["OPTIONS"].get("pool"):
            connection.close()
            if connection.in_atomic_block:  # it can't be used any more
                del connections[connection.alias]


def close_all() -> None:
    """In a thread that ends: close its connections."""
    with suppress(Exception):
        connections.close_all()
