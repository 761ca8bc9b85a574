"""Keep notes of tasks in the database."""

from collections.abc import Iterable

from django.db import connections

from durable_queue.models import Note
from durable_queue.store.databases import table_of

NOTE_LENGTH = 1_000  # characters
# UTF-8 of a note. PostgreSQL's index holds entries of 2,704 bytes at most, and an insert with a longer one fails
# (https://www.postgresql.org/docs/current/btree.html); a task's id takes 32 of them.
NOTE_BYTES = 2_500


def keep_notes(notes: Iterable[tuple[str, str]], *, using: str) -> None:
    """Keep notes, (task id, text) each, in their order; one that is kept already stays as it is. Raises django.db.Error."""
    rows = [Note(task_id=task_id, text=_storable(text)) for task_id, text in notes]
    with table_of(connections[using]).turn():
        Note.objects.using(using).bulk_create(rows, ignore_conflicts=True)


def _storable(text: str) -> str:
    """The text as both databases can store it, and index it: without NUL and lone surrogates, and not too long."""
    # Cut first, for the text may be huge; and whole characters only.
    encoded = text[:NOTE_LENGTH].encode("utf-8", "replace").replace(b"\0", "\ufffd".encode())
    return encoded[:NOTE_BYTES].decode("utf-8", "ignore")
