"""PostgreSQL's words in the statements that find tasks."""

from collections.abc import Mapping

from durable_queue.store.dialect import Dialect
from durable_queue.store.postgresql.arrays import array


class PostgreSQLDialect(Dialect):
    """See `Dialect`."""

    asked = "SELECT id, part FROM unnest(%s::text[], %s::text[]) AS given(id, part)"
    by_failed = ""  # its planner sees that this index is the smaller one
    present = "statement_timestamp()"

    def asked_values(self, parts: Mapping[str, str]) -> list[str]:
        return [array(parts), array(parts.values())]

    def look_up(self, table: str, alias: str, condition: str, *, outer: bool = False) -> str:
        # OFFSET 0 keeps the planner from making a join of it, for which it may read the table from end to end.
        rows = f"SELECT * FROM {table} AS {alias} WHERE {condition} OFFSET 0"  # noqa: S608
        return f"{'LEFT' if outer else 'INNER'} JOIN LATERAL ({rows}) AS {alias} ON true"

    def as_text(self, column: str) -> str:
        return f"CAST({column} AS text)"

    def entry_of(self, column: str, key: str) -> str:
        return f"({column} -> {key})::text"
