"""Columns as text, whatever stands in them: on SQLite any column takes anything, and one such row must hide no other."""

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import TextField
from django.db.models.functions import Cast

_ON_SQLITE = (
    "CASE typeof(%(expressions)s) WHEN 'blob' THEN 'x''' || hex(%(expressions)s) || '''' ELSE CAST(%(expressions)s AS text) END"
)


class AsText(Cast):
    """A column as text. A blob, which need not be text, is shown by its hexadecimal digits, as SQL writes it."""

    def __init__(self, column: str) -> None:
        super().__init__(column, TextField())

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        """SQLite tells the type of each value (https://www.sqlite.org/lang_corefunc.html#typeof)."""
        return self.as_sql(compiler, connection, template=_ON_SQLITE, **context)
