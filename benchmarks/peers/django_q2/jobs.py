"""django-q2: settings.py beside this file."""

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django_q.tasks import async_task  # noqa: E402


def prepare() -> None:
    """Create the tables."""
    call_command("migrate", verbosity=0)


def enqueue(line: str) -> None:
    """Queue one line."""
    async_task("job.append", line)
