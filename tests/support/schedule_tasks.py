"""What the schedules of `scripts/chaos schedules` run."""

from typing import NoReturn

from django.db import connection
from django.utils import timezone

from durable_queue import current_task


def note_run(number: int, at: str = "") -> None:
    """Note the schedule's number, the moment for which this was intended, the task, and when it began."""
    task = current_task.get()
    name, now = task.id if task else "", timezone.now().isoformat()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO run (number, intended, task, began) VALUES (%s, %s, %s, %s)", [number, at, name, now])


def fail(*_: object, **__: object) -> NoReturn:
    """Fail."""
    raise ValueError("as always")
