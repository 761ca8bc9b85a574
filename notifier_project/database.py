"""The connection to the database, either SQLite or PostgreSQL, as Django's setting DATABASES describes it."""

from pathlib import Path
from typing import Any

import dj_database_url

from notifier_project import sqlite_driver  # noqa: F401 - before Django imports sqlite3
from notifier_project.values import refuse

_SQLITE = "django.db.backends.sqlite3"
_POSTGRESQL = "django.db.backends.postgresql"
_SYNCHRONOUS = {"process": "NORMAL", "power": "FULL"}


def of(url: str, *, base_folder: Path, data_folder: Path, durability: str) -> dict[str, Any]:
    """The connection that DATABASE_URL names. An empty one stands for SQLite in the data folder.

    `base_folder`: where a relative path of a URL starts. `durability`: NOTIFIER_DURABILITY.
    """
    try:
        database: dict[str, Any] = dict(dj_database_url.parse(url)) if url else {"ENGINE": _SQLITE, "NAME": "db.sqlite3"}
    except (ValueError, KeyError) as error:
        refuse("DATABASE_URL", f"can't be read ({error}); write postgres://user:password@host:5432/name or sqlite:///file")
    database["CONN_MAX_AGE"] = None
    if database["ENGINE"] == _SQLITE:
        if database["NAME"] in ("", ":memory:"):
            refuse("DATABASE_URL", "web and workers can't share a database in memory; name a file: sqlite:///file")
        database["NAME"] = (base_folder if url else data_folder) / database["NAME"]
        database["TEST"] = {"NAME": data_folder / "test.sqlite3"}  # a file, as in production
        database["OPTIONS"] = {
            # Take the write lock at BEGIN: a transaction that reads before it writes can't wait for the lock later
            # (https://www.sqlite.org/lang_transaction.html).
            "transaction_mode": "IMMEDIATE",
            # NORMAL with WAL: a crash of a program loses nothing, but a power cut may lose the latest commits. FULL
            # prevents that with an fsync for each commit (https://www.sqlite.org/pragma.html#pragma_synchronous).
            # The upkeep process runs the checkpoints (durable_queue/store/sqlite/checkpoints.py), so that no request
            # waits for one. A commit runs one only if upkeep has let the write-ahead log grow to 40,000 pages (160 MB).
            "init_command": f"PRAGMA journal_mode=WAL; PRAGMA synchronous={_SYNCHRONOUS[durability]};"
            "PRAGMA wal_autocheckpoint=40000",
            "timeout": 2,  # seconds to wait for another writer; then a POST gets a 503
        }
    elif database["ENGINE"] == _POSTGRESQL:
        if not database["NAME"]:
            refuse("DATABASE_URL", "names no database; write postgres://user:password@host:5432/name")
        # After PostgreSQL was restarted, the admin's next request opens a new connection. A POST does so after one 503.
        database["CONN_HEALTH_CHECKS"] = True
        database["OPTIONS"] = {
            "connect_timeout": 2,
            "tcp_user_timeout": 10_000,
            # A server that vanished without closing the connection is noticed after 11 s instead of two hours.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "options": "-c statement_timeout=30s -c lock_timeout=2s",
        } | database.get("OPTIONS", {})
    else:
        refuse("DATABASE_URL", "only postgres:// and sqlite:// databases are supported")
    return database
