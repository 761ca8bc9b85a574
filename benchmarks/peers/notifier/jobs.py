"""Notifier: what its view does with a POST."""

import os

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from job import append  # noqa: E402

from durable_queue import BackgroundTasks  # noqa: E402
from notifications.tasks import write_log  # noqa: E402

JOB = append if os.environ.get("BENCH_PLAIN") else write_log


def prepare() -> None:
    """Create the tables."""
    call_command("migrate", verbosity=0)


def enqueue(line: str) -> None:
    """Queue one line."""
    tasks = BackgroundTasks(name=line.strip())
    tasks.add_task(JOB, line)
    tasks.enqueue()
