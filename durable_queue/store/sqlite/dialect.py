"""SQLite's words in the statements that find tasks."""

import json
from collections.abc import Mapping

from durable_queue.store.dialect import Dialect


class SQLiteDialect(Dialect):
    """See `Dialect`."""

    asked = "SELECT key AS id, value AS part FROM json_each(%s)"
    by_failed = "INDEXED BY cluster_failed"  # it would choose the primary key's, since that is unique
    present = "NULL"

    def asked_values(self, parts: Mapping[str, str]) -> list[str]:
        return [json.dumps(parts)]

    def look_up(self, table: str, alias: str, condition: str, *, outer: bool = False) -> str:
        # The tables of a CROSS JOIN stay in their order (https://www.sqlite.org/optoverview.html#crossjoin).
        return f"{'LEFT' if outer else 'CROSS'} JOIN {table} AS {alias} ON {condition}"

    def as_text(self, column: str) -> str:
        # Any column takes anything. A blob need not be text; its digits are, as SQL writes them.
        return f"CASE typeof({column}) WHEN 'blob' THEN 'x''' || hex({column}) || '''' ELSE CAST({column} AS text) END"

    def entry_of(self, column: str, key: str) -> str:
        return f"""json_extract({column}, '$."' || {key} || '"')"""
