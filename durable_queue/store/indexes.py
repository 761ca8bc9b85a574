"""The indexes that this app keeps on django-q2's tables, and how it restores them; its columns there too (`own_columns`).

django-q2's models don't know of these. When a migration of django-q2 changes a table on SQLite, Django makes a new table with
the indexes and columns of the model only (`_remake_table` in its backends/sqlite3/schema.py), and drops the others silently.
"""

from typing import Any, NamedTuple

from django.apps import AppConfig
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder

from durable_queue.store import own_columns
from durable_queue.store.databases import is_supported, table_of
from durable_queue.store.rows import HISTORY_TABLE, QUEUE_TABLE


class Index(NamedTuple):
    """An index as it should be today. The migration that first made it may have had another definition."""

    migration: str  # the migration that makes it; while that is not applied, the index should not exist
    table: str
    what: str  # its columns and condition; {part} stands for the part of a payload that it holds

    def sql(self, name: str, part: str) -> str:
        """The statement that makes the index."""
        return f'CREATE INDEX "{name}" ON "{self.table}" {self.what.format(part=part)}'


# django-q2's own "success_index" is not listed. Migration 0004 takes the tasks without a group out of it. The model has an
# index of that name, so a remade table has one too: as the model defines it, larger and as useful.
INDEXES = {
    "cluster_claim": Index("0002_claim_index", QUEUE_TABLE, '("key", "lock", "id")'),
    "cluster_history": Index("0002_claim_index", HISTORY_TABLE, '("stopped")'),
    "cluster_failures": Index("0003_failures_index", HISTORY_TABLE, '("stopped") WHERE NOT "success"'),
    "cluster_task": Index("0006_task_index", QUEUE_TABLE, "({part})"),
    # Failed tasks are few: looking an id up among them costs a third of looking it up among millions.
    "cluster_failed": Index("0006_task_index", HISTORY_TABLE, '("id") WHERE NOT "success"'),
}


def missing(connection: BaseDatabaseWrapper) -> list[str]:
    """The names of the indexes and columns that the database lacks, by its applied migrations. Raises django.db.Error."""
    # Django's introspection would take 11 ms, and `post_migrate` follows each test that flushes its database.
    table = table_of(connection)
    found = table.run(table.indexes_there, (QUEUE_TABLE, HISTORY_TABLE))
    tables, there = {on for on, _ in found}, {name for _, name in found}
    absent = {name: index.migration for name, index in INDEXES.items() if index.table in tables and name not in there}
    if columns := {name for (name,) in table.run(table.columns_there, (HISTORY_TABLE,))}:
        absent |= {name: own_columns.MIGRATION for name in own_columns.NAMES if name not in columns}
    applied = MigrationRecorder(connection).applied_migrations() if absent else {}
    return [name for name, migration in absent.items() if ("durable_queue", migration) in applied]


def restore_missing(using: str) -> list[str]:
    """Make what the database with this alias lacks, columns empty; return the names. Raises django.db.Error."""
    connection = connections[using]
    names = missing(connection)
    if names:
        with transaction.atomic(using=using), connection.cursor() as cursor:
            for name in names:
                is_column = name in own_columns.NAMES
                cursor.execute(
                    own_columns.addition(connection.vendor, name)
                    if is_column
                    else INDEXES[name].sql(name, table_of(connection).part)
                )
    own_columns.note_restored()
    return names


def restore_after_migrate(sender: AppConfig, using: str, **kwargs: Any) -> None:
    """Restore lost indexes and columns: a receiver of `post_migrate`."""
    if is_supported(using):
        restore_missing(using)
