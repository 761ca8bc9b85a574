"""What Django raises when the database's disk is full."""

import sqlite3

from django.db import OperationalError, connection


class _ServerError(Exception):
    sqlstate = "53100"


def full() -> OperationalError:
    """The disk is full."""
    error = OperationalError("full")
    error.__cause__ = _ServerError() if connection.vendor == "postgresql" else sqlite3.OperationalError("full")
    if isinstance(error.__cause__, sqlite3.OperationalError):
        error.__cause__.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error
