"""Huey, on Redis or on SQLite (https://huey.readthedocs.io/en/latest/guide.html). On SQLite without fsync, as nobody here has one per task."""

import os

import job
from huey import RedisHuey, SqliteHuey

redis_url = os.environ.get("REDIS_URL")
database = os.path.join(os.environ["BENCH_FOLDER"], "huey.db")
huey = RedisHuey(url=redis_url) if redis_url else SqliteHuey(filename=database, fsync=False)

append = huey.task()(job.append)


def prepare() -> None:
    """Huey creates its tables itself."""


def enqueue(line: str) -> None:
    """Queue one line."""
    append(line)
