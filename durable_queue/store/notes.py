"""Keep notes on tasks in the database."""

from collections.abc import Iterable

from django.db import connections

from durable_queue.models import Note
from durable_queue.store.databases import table_of
from durable_queue.task.text import storable

NOTE_LENGTH = 1_000  # characters
# The most that a note may take in UTF-8. PostgreSQL's index holds at most 2,704 bytes a row, and a longer insert fails
# (https://www.postgresql.org/docs/current/btree.html); a task's id takes 32 of these bytes.
NOTE_BYTES = 2_500


def keep_notes(notes: Iterable[tuple[str, str]], *, using: str) -> None:
    """Keep notes, each a (task id, text), in their order. A note that is there already stays. Raises django.db.Error."""
    rows = [Note(task_id=task_id, text=_short(text)) for task_id, text in notes]
    with table_of(connections[using]).turn():
        Note.objects.using(using).bulk_create(rows, ignore_conflicts=True)


def _short(text: str) -> str:
    """The text as both databases can store and index it."""
    # Cut first, since the text may be huge. The second cut leaves whole characters only.
    return storable(text[:NOTE_LENGTH]).encode()[:NOTE_BYTES].decode("utf-8", "ignore")
