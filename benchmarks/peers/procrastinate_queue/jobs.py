"""Procrastinate on PostgreSQL (https://procrastinate.readthedocs.io/en/stable/quickstart.html)."""

import os

import job
import procrastinate
import slow

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))
append = app.task(job.append, name="append")
# A coroutine: blocking tasks would share the event loop's default threads, six on two cores, whatever `--concurrency` says.
wait = app.task(slow.await_, name="wait")


def prepare() -> None:
    """Create the tables."""
    with app.open():
        app.schema_manager.apply_schema()


def enqueue(line: str) -> None:
    """Queue one line."""
    open_once()
    append.defer(line=line)


def enqueue_slow(job: str, number: int, size: float) -> None:
    """Queue one slow job."""
    open_once()
    {"wait": wait}[job].defer(number=number, seconds=size)


def open_once() -> None:
    """Connect to the database."""
    if not opened:
        opened.append(app.open())


opened: list[object] = []
