"""A worker's lease without an index: on PostgreSQL its row is then changed in its place, as each task does twice.

No two workers name a lease alike (durable_queue/store/leases.py, `new_name`).
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    replaces = [("cluster", "0005_lease_without_index")]  # the app's name until version 0.2
    dependencies = [("durable_queue", "0004_group_index")]

    operations = [
        migrations.AlterField(
            model_name="worker",
            name="lease",
            field=models.DateTimeField(help_text="The `lock` of the rows that it holds.", null=True),
        ),
    ]
