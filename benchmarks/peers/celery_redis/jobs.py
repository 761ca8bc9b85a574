"""Celery on Redis.

https://docs.celeryq.dev/en/stable/userguide/optimizing.html: many short tasks want a large prefetch multiplier; late
acknowledgement and `task_reject_on_worker_lost` run a killed worker's task again. Results are kept for a day, the default.
"""

import os

import job
from celery import Celery

app = Celery("jobs", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=128,
    broker_connection_retry_on_startup=True,
)

append = app.task(job.append, name="append")


def prepare() -> None:
    """There are no tables."""


def enqueue(line: str) -> None:
    """Queue one line."""
    append.delay(line)
