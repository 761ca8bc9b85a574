"""The table in which a database remembers the journals that have recorded its tasks' writes."""

from django.db import models


class Journal(models.Model):
    """A journal that has recorded writes of this database's tasks (notifications/log/journal.py)."""

    journal = models.CharField(max_length=32, primary_key=True, help_text="The journal's id.")
    database = models.CharField(max_length=16, help_text="The name that this database has in the journal.")
    trims = models.BigIntegerField(help_text="The number of the last trim that was made with this database's answers.")

    def __str__(self) -> str:
        return self.journal
