"""The failed tasks' page, newest first, among millions that succeeded. A task that succeeds pays nothing for the index."""

from django.db import migrations


class Migration(migrations.Migration):
    replaces = [("cluster", "0003_failures_index")]  # the app's name until version 0.2
    dependencies = [("durable_queue", "0002_claim_index")]

    operations = [
        migrations.RunSQL(
            sql='CREATE INDEX "cluster_failures" ON "django_q_task" ("stopped") WHERE NOT "success"',
            reverse_sql='DROP INDEX "cluster_failures"',
        ),
    ]
