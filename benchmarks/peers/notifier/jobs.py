"""Notifier: what its view does with a POST."""

import os

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from job import append  # noqa: E402
from slow import JOBS  # noqa: E402
from whole_task import whole  # noqa: E402

from durable_queue import BackgroundTasks  # noqa: E402
from notifications.tasks import write_log  # noqa: E402

JOB = append if os.environ.get("BENCH_PLAIN") else write_log
SLOW = {**JOBS, "whole": whole}


def prepare() -> None:
    """Create the tables."""
    call_command("migrate", verbosity=0)


def enqueue(line: str) -> None:
    """Queue one line."""
    tasks = BackgroundTasks(name=line.strip())
    tasks.add_task(JOB, line)
    tasks.enqueue()


def enqueue_slow(job: str, number: int, size: float) -> None:
    """Queue one slow job."""
    tasks = BackgroundTasks(name=f"{job} {number}")
    tasks.add_task(SLOW[job], number, size)
    tasks.enqueue()
