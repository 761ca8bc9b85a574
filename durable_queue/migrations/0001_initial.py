"""The tables. They and these migrations were an app named `cluster`, and 0008 gives them their present names."""

from django.db import migrations, models


class Migration(migrations.Migration):
    replaces = [("cluster", "0001_initial")]  # the app's name until version 0.2
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Attempt",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("row", models.BigIntegerField(db_index=True, help_text="The queue row's id.")),
                ("task_id", models.CharField(blank=True, db_index=True, max_length=32)),
                ("number", models.PositiveIntegerField()),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("failed", "Failed"),
                            ("lost", "Lost: its worker was killed"),
                            ("overdue", "Killed: it took too long"),
                            ("refused", "Refused: it can't be run"),
                        ],
                        max_length=8,
                    ),
                ),
                ("worker", models.CharField(max_length=300)),
                ("started", models.DateTimeField()),
                ("stopped", models.DateTimeField(db_index=True)),
                ("error", models.TextField()),
            ],
            options={
                "db_table": "cluster_attempt",
                "ordering": ("row", "number"),
            },
        ),
        migrations.CreateModel(
            name="DeadLetter",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("task_id", models.CharField(db_index=True, max_length=32)),
                ("queue", models.CharField(max_length=100)),
                ("payload", models.TextField()),
                ("reason", models.TextField()),
                ("at", models.DateTimeField(db_index=True)),
            ],
            options={"db_table": "cluster_deadletter"},
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(help_text="Also the name of its progress file.", max_length=32, unique=True)),
                ("queue", models.CharField(help_text="The queue that it takes tasks from.", max_length=100)),
                ("host", models.CharField(max_length=255)),
                ("pid", models.IntegerField()),
                (
                    "born",
                    models.BigIntegerField(
                        help_text="The process's start, in the kernel's ticks: a pid alone may be another's by now."
                    ),
                ),
                ("supervisor", models.UUIDField()),
                ("supervisor_pid", models.IntegerField()),
                (
                    "restarts",
                    models.IntegerField(default=0, help_text="How many workers its supervisor had replaced when it started."),
                ),
                ("started", models.DateTimeField()),
                ("heartbeat", models.DateTimeField()),
                ("lease", models.DateTimeField(help_text="The `lock` of the rows that it holds.", null=True, unique=True)),
                ("lease_due", models.DateTimeField(help_text="When the first of these rows was due.", null=True)),
            ],
            options={"db_table": "cluster_worker"},
        ),
    ]
