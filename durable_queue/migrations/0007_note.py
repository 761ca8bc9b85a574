"""Remarks on a task, each kept once."""

import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    replaces = [("cluster", "0007_note")]  # the app's name until version 0.2
    dependencies = [("durable_queue", "0006_task_index")]

    operations = [
        migrations.CreateModel(
            name="Note",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("task_id", models.CharField(max_length=32)),
                ("text", models.TextField()),
                ("at", models.DateTimeField(db_index=True, default=django.utils.timezone.now)),
            ],
            options={
                "db_table": "cluster_note",
                "ordering": ("pk",),
                "constraints": [models.UniqueConstraint(fields=("task_id", "text"), name="cluster_note_once")],
            },
        ),
    ]
