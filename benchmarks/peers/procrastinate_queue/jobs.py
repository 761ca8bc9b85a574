"""Procrastinate on PostgreSQL (https://procrastinate.readthedocs.io/en/stable/quickstart.html)."""

import os

import job
import procrastinate

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))
append = app.task(job.append, name="append")


def prepare() -> None:
    """Create the tables."""
    with app.open():
        app.schema_manager.apply_schema()


def enqueue(line: str) -> None:
    """Queue one line."""
    if not opened:
        opened.append(app.open())
    append.defer(line=line)


opened: list[object] = []
