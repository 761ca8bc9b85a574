"""The indexes that this app keeps on django-q2's tables, and how they come back.

django-q2's models don't know of them. A migration of django-q2's that changes a table on SQLite makes the table anew, with
the indexes of its model only (`_remake_table` in Django's backends/sqlite3/schema.py), and says nothing of the others.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.apps import AppConfig
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder

from notifications.cluster import lookup, table


class Index(NamedTuple):
    """An index as it is now, whatever the migration once said."""

    migration: str  # the one that makes it: before, and after its reversal, it isn't to be there
    table: str
    what: str | Mapping[str, str]  # its columns and condition; by the database's vendor, where they differ

    def sql(self, name: str, vendor: str) -> str:
        """The statement that makes it."""
        what = self.what if isinstance(self.what, str) else self.what[vendor]
        return f'CREATE INDEX "{name}" ON "{self.table}" {what}'


# Without django-q2's own "success_index", from which migration 0004 takes the tasks that have no group. Its model has one of
# that name, so it is never missing: a table that is made anew has it as the model says, larger, and as good to all who look.
INDEXES = {
    "cluster_claim": Index("0002_claim_index", table.QUEUE, '("key", "lock", "id")'),
    "cluster_history": Index("0002_claim_index", table.HISTORY, '("stopped")'),
    "cluster_failures": Index("0003_failures_index", table.HISTORY, '("stopped") WHERE NOT "success"'),
    "cluster_task": Index("0006_task_index", table.QUEUE, {v: f"({part})" for v, part in lookup.PART.items()}),
    # An id is looked for among the failed ones, which are few, at a third of the cost that it has among millions.
    "cluster_failed": Index("0006_task_index", table.HISTORY, '("id") WHERE NOT "success"'),
}


# Which of the two tables are there (on PostgreSQL each has its primary key's index at least), and their indexes. Django's
# introspection takes 11 ms to tell, and `post_migrate` comes after each test that flushes its database.
_THERE = {
    "sqlite": "SELECT tbl_name, name FROM sqlite_master WHERE tbl_name IN (%s, %s)",
    "postgresql": """
        SELECT tablename, indexname FROM pg_indexes
        WHERE tablename IN (%s, %s) AND schemaname = ANY(current_schemas(false))
    """,
}


def missing(connection: BaseDatabaseWrapper) -> list[str]:
    """The names of the indexes that the database should have by its migrations, and hasn't. Raises django.db.Error."""
    found = table.run(connection, _THERE[connection.vendor], (table.QUEUE, table.HISTORY))
    tables, there = {on for on, _ in found}, {name for _, name in found}
    absent = [name for name, index in INDEXES.items() if index.table in tables and name not in there]
    applied = MigrationRecorder(connection).applied_migrations() if absent else {}
    return [name for name in absent if ("cluster", INDEXES[name].migration) in applied]


def restore_missing(using: str) -> list[str]:
    """Make the missing indexes of the database with this alias; return their names. Raises django.db.Error."""
    connection = connections[using]
    names = missing(connection)
    if names:
        with transaction.atomic(using=using), connection.cursor() as cursor:
            for name in names:
                cursor.execute(INDEXES[name].sql(name, connection.vendor))
    return names


def restore_after_migrate(sender: AppConfig, using: str, **kwargs: Any) -> None:
    """A receiver of `post_migrate`."""
    restore_missing(using)
