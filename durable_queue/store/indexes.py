"""The indexes that this app keeps on django-q2's tables, and how they come back.

django-q2's models don't know of them. A migration of django-q2 that changes a table on SQLite makes a new table, with
the indexes of its model only (`_remake_table` in Django's backends/sqlite3/schema.py), and says nothing of the others.
"""

from typing import Any, NamedTuple

from django.apps import AppConfig
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder

from durable_queue.store.databases import table_of
from durable_queue.store.rows import HISTORY, QUEUE


class Index(NamedTuple):
    """An index as it is now, whatever the migration once said."""

    migration: str  # the one that makes it: before, and after its reversal, it isn't to be there
    table: str
    what: str  # its columns and condition; {part} for what of a payload it holds

    def sql(self, name: str, part: str) -> str:
        """The statement that makes it."""
        return f'CREATE INDEX "{name}" ON "{self.table}" {self.what.format(part=part)}'


# Without django-q2's own "success_index", from which migration 0004 takes the tasks that have no group. Its model has one of
# that name, so it is never missing. A table that django-q2 makes again has it as the model says: larger, and as useful.
INDEXES = {
    "cluster_claim": Index("0002_claim_index", QUEUE, '("key", "lock", "id")'),
    "cluster_history": Index("0002_claim_index", HISTORY, '("stopped")'),
    "cluster_failures": Index("0003_failures_index", HISTORY, '("stopped") WHERE NOT "success"'),
    "cluster_task": Index("0006_task_index", QUEUE, "({part})"),
    # An id is looked for among the failed ones, which are few, at a third of the cost that it has among millions.
    "cluster_failed": Index("0006_task_index", HISTORY, '("id") WHERE NOT "success"'),
}


def missing(connection: BaseDatabaseWrapper) -> list[str]:
    """The names of the indexes that the database should have by its migrations, and hasn't. Raises django.db.Error."""
    # Not by Django's introspection, which takes 11 ms: `post_migrate` comes after each test that flushes its database.
    table = table_of(connection)
    found = table.run(table.indexes_there, (QUEUE, HISTORY))
    tables, there = {on for on, _ in found}, {name for _, name in found}
    absent = [name for name, index in INDEXES.items() if index.table in tables and name not in there]
    applied = MigrationRecorder(connection).applied_migrations() if absent else {}
    return [name for name in absent if ("durable_queue", INDEXES[name].migration) in applied]


def restore_missing(using: str) -> list[str]:
    """Make the missing indexes of the database with this alias; return their names. Raises django.db.Error."""
    connection = connections[using]
    names = missing(connection)
    if names:
        with transaction.atomic(using=using), connection.cursor() as cursor:
            for name in names:
                cursor.execute(INDEXES[name].sql(name, table_of(connection).part))
    return names


def restore_after_migrate(sender: AppConfig, using: str, **kwargs: Any) -> None:
    """A receiver of `post_migrate`."""
    restore_missing(using)
