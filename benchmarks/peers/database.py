"""The database of the Django peers, with the settings that Notifier gives its own (notifier_project/database.py)."""

import os
from typing import Any


def _postgresql(url: str) -> dict[str, Any]:
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - the peers on SQLite don't need it

    parts = conninfo_to_dict(url)
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    return {"ENGINE": "django.db.backends.postgresql", "CONN_MAX_AGE": None} | {
        django: parts[libpq] for libpq, django in names.items() if parts.get(libpq)
    }


def _sqlite(path: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
            "timeout": 30,
        },
    }


def databases() -> dict[str, dict[str, Any]]:
    """Django's DATABASES."""
    url = os.environ.get("DATABASE_URL")
    return {"default": _postgresql(url) if url else _sqlite(os.path.join(os.environ["BENCH_FOLDER"], "db.sqlite3"))}
