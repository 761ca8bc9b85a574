"""Huey, on Redis or on SQLite (https://huey.readthedocs.io/en/latest/guide.html)."""

import os

import job
import slow
from huey import RedisHuey, SqliteHuey

if url := os.environ.get("REDIS_URL"):
    huey = RedisHuey(url=url)
else:
    # Its default leaves SQLite at an fsync for each commit; `fsync=False` sets synchronous=OFF, with which a power cut may
    # destroy the file. Notifier has NORMAL, which lies between the two and which Huey doesn't offer.
    fsync = False if os.environ.get("BENCH_UNSAFE") else None
    huey = SqliteHuey(filename=os.path.join(os.environ["BENCH_FOLDER"], "huey.db"), fsync=fsync)

append = huey.task()(job.append)
wait = huey.task()(slow.wait)


def prepare() -> None:
    """Huey creates its tables itself."""


def enqueue(line: str) -> None:
    """Queue one line."""
    append(line)


def enqueue_slow(job: str, number: int, size: float) -> None:
    """Queue one slow job."""
    {"wait": wait}[job](number, size)
