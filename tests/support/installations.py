"""Installations of Notifier for real processes: each with a data folder, a log and a database of its own."""

import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.support import environment


@contextmanager
def new_installation(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of an installation in `folder`, its database still without tables."""
    env = {
        "NOTIFIER_DATA_DIR": str(folder / "var"),
        "NOTIFIER_LOG_FILE": str(folder / "log.txt"),
        "DATABASE_URL": "",
    }
    if environment.DATABASE == "sqlite":
        yield env
        return
    name = f"test_{uuid.uuid4().hex}"
    with environment.administration() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
    try:
        yield env | {"DATABASE_URL": environment.database_url(name)}
    finally:
        with environment.administration() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


class QueueTable:
    """An installation's queue and history, read from its tables from outside."""

    def __init__(self, connection: Any) -> None:
        """`connection`: a DB-API connection that opens no transactions of its own."""
        self._connection = connection

    def waiting(self) -> int:
        """The number of tasks in the queue."""
        return self._number("SELECT count(*) FROM django_q_ormq")

    def accepted(self) -> int:
        """The number of tasks that were ever enqueued: those in the queue and those in the history."""
        return self._number("SELECT (SELECT count(*) FROM django_q_ormq) + (SELECT count(*) FROM django_q_task)")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other processes from writing to the queue."""
        self._connection.execute("BEGIN IMMEDIATE" if environment.DATABASE == "sqlite" else "BEGIN")
        try:
            if environment.DATABASE == "postgresql":
                self._connection.execute("LOCK TABLE django_q_ormq IN ACCESS EXCLUSIVE MODE")
            yield
        finally:
            self._connection.execute("ROLLBACK")

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])


@contextmanager
def database(env: Mapping[str, str]) -> Iterator[Any]:
    """A DB-API connection, in autocommit mode, to the database of the installation with this environment."""
    if environment.DATABASE == "sqlite":
        path = Path(env["NOTIFIER_DATA_DIR"]) / "db.sqlite3"
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
            yield connection
    else:
        with psycopg.connect(env["DATABASE_URL"], autocommit=True, options="-c TimeZone=UTC") as postgresql:
            yield postgresql


@contextmanager
def queue_table(env: Mapping[str, str]) -> Iterator[QueueTable]:
    """The queue table of the installation with this environment."""
    with database(env) as connection:
        yield QueueTable(connection)


def execute(env: Mapping[str, str], sql: str) -> list[tuple[Any, ...]]:
    """Run one statement in the database of the installation with this environment; return its rows."""
    with database(env) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []
