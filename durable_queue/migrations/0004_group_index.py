"""django-q2's index of the history, by group, without the tasks that have no group.

Nobody looks for these by it, and each was an entry at a random place of an index that grows with the history.
"""

from django.db import migrations

INDEX = 'CREATE INDEX "success_index" ON "django_q_task" ("group", "name", "func") WHERE "success"'


class Migration(migrations.Migration):
    replaces = [("cluster", "0004_group_index")]  # the app's name until version 0.2
    dependencies = [
        ("durable_queue", "0003_failures_index"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]

    # It keeps its name, so that django-q2's own migrations still find it.
    operations = [
        migrations.RunSQL(
            sql=['DROP INDEX "success_index"', f'{INDEX} AND "group" IS NOT NULL'],
            reverse_sql=['DROP INDEX "success_index"', INDEX],
        ),
    ]
