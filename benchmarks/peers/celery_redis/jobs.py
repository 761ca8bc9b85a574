"""Celery on Redis.

https://docs.celeryq.dev/en/stable/userguide/optimizing.html: many short tasks want a large prefetch multiplier; late
acknowledgement and `task_reject_on_worker_lost` run a killed worker's task again. Slow tasks want a multiplier of 1. Results
are kept for a day, the default.
"""

import os

import job
import slow
from celery import Celery

app = Celery("jobs", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "128")),
    broker_connection_retry_on_startup=True,
)

append = app.task(job.append, name="append")
wait = app.task(slow.wait, name="wait")


def prepare() -> None:
    """There are no tables."""


def enqueue(line: str) -> None:
    """Queue one line."""
    append.delay(line)


def enqueue_slow(job: str, number: int, size: float) -> None:
    """Queue one slow job."""
    {"wait": wait}[job].delay(number, size)
