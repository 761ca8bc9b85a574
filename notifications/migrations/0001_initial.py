from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Journal",
            fields=[
                (
                    "journal",
                    models.CharField(help_text="The journal's id.", max_length=32, primary_key=True, serialize=False),
                ),
                (
                    "database",
                    models.CharField(help_text="The name that this database has in the journal.", max_length=16),
                ),
                (
                    "trims",
                    models.BigIntegerField(help_text="The number of the last trim that was made with this database's answers."),
                ),
            ],
        ),
    ]
