"""The indexes that find a task by its id: its queue row, and whether it failed (durable_queue/store/lookup.py)."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def create_index(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """SQLite compares bytes anyway, and knows no "C"."""
    collate = ' COLLATE "C"' if schema_editor.connection.vendor == "postgresql" else ""
    schema_editor.execute(f'CREATE INDEX "cluster_task" ON "django_q_ormq" (substr("payload", 29, 40){collate})')


def drop_index(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """The reverse."""
    schema_editor.execute('DROP INDEX "cluster_task"')


class Migration(migrations.Migration):
    replaces = [("cluster", "0006_task_index")]  # the app's name until version 0.2
    dependencies = [
        ("durable_queue", "0005_lease_without_index"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]

    operations = [
        migrations.RunPython(create_index, drop_index),
        migrations.RunSQL(
            sql='CREATE INDEX "cluster_failed" ON "django_q_task" ("id") WHERE NOT "success"',
            reverse_sql='DROP INDEX "cluster_failed"',
        ),
    ]
