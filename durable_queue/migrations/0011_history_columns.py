"""What django-q2's history lacks: the worker of a success, and when a task was queued whose id doesn't tell.

Columns that its model doesn't know of (durable_queue/store/own_columns.py).
"""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from durable_queue.store import own_columns


def add_columns(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Add them, empty: on both databases that takes no time, however long the table is."""
    for name in own_columns.NAMES:
        schema_editor.execute(own_columns.addition(schema_editor.connection.vendor, name))


def drop_columns(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """The reverse. SQLite writes the table anew."""
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        there = {column.name for column in connection.introspection.get_table_description(cursor, "django_q_task")}
    for name in there & set(own_columns.NAMES):
        schema_editor.execute(f'ALTER TABLE "django_q_task" DROP COLUMN "{name}"')


class Migration(migrations.Migration):
    dependencies = [
        ("durable_queue", "0010_identity"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]

    operations = [migrations.RunPython(add_columns, drop_columns)]
