"""The index that a claim walks: due rows of one queue, first due first. On django-q2's table, which has none."""

from django.db import migrations


class Migration(migrations.Migration):
    replaces = [("cluster", "0002_claim_index")]  # the app's name until version 0.2
    dependencies = [
        ("durable_queue", "0001_initial"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]

    operations = [
        migrations.RunSQL(
            sql='CREATE INDEX "cluster_claim" ON "django_q_ormq" ("key", "lock", "id")',
            reverse_sql='DROP INDEX "cluster_claim"',
        ),
        # The history's pages and its pruning go by the end of a task.
        migrations.RunSQL(
            sql='CREATE INDEX "cluster_history" ON "django_q_task" ("stopped")',
            reverse_sql='DROP INDEX "cluster_history"',
        ),
    ]
