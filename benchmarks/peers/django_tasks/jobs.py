"""django-tasks-db: settings.py beside this file."""

import django

django.setup()

import job  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django_tasks import task  # noqa: E402


@task()
def append(line: str) -> None:
    """What a worker calls."""
    job.append(line)


def prepare() -> None:
    """Create the tables."""
    call_command("migrate", verbosity=0)


def enqueue(line: str) -> None:
    """Queue one line."""
    append.enqueue(line)
