"""Who takes part, and how each is started: settings are in benchmarks/peers/<folder>, versions in its requirements.txt."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.support.processes import PROJECT

PEERS = PROJECT / "benchmarks" / "peers"
ENVIRONMENTS = PROJECT / "var" / "bench" / "environments"

Command = tuple[str, ...]

_TWO_QUIET = "--workers 2 --no-access-log --log-level warning"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way to have the work done."""

    name: str
    title: str
    folder: str  # in `peers`, and the name of its environment
    workers: tuple[Command, ...] = ()  # what to start, to have two workers; the first word is a program of its environment
    web: Command = ()  # the web server, two processes on {port}; Notifier's: one of two, which share a socket
    server: Literal["", "redis", "postgresql"] = ""
    env: Mapping[str, str] = field(default_factory=dict)
    project: Path = PROJECT  # where Notifier's code is

    @property
    def bin(self) -> Path:
        """Where the programs of its environment are. Notifier's is the project's own."""
        return Path(sys.executable).parent if self.folder == "notifier" else ENVIRONMENTS / self.folder / "bin"


NOTIFIER = Contestant(
    name="notifier",
    title="Notifier",
    folder="notifier",
    workers=(("python", str(PROJECT / "manage.py"), "qcluster", "--workers", "2"),),
    web=("python", "-m", "notifier_project.service.web"),
    env={"DJANGO_SETTINGS_MODULE": "notifier_project.settings"},
)
NOTIFIER_PLAIN = Contestant(
    name="notifier-plain",
    title="Notifier, a plain append without the journal",
    folder="notifier",
    workers=NOTIFIER.workers,
    env={**NOTIFIER.env, "BENCH_PLAIN": "1"},
)
NOTIFIER_POSTGRESQL = Contestant(
    name="notifier-postgresql",
    title="Notifier on PostgreSQL",
    folder="notifier",
    workers=NOTIFIER.workers,
    web=NOTIFIER.web,
    server="postgresql",
    env=NOTIFIER.env,
)
CELERY = Contestant(
    name="celery",
    title="Celery on Redis",
    folder="celery_redis",
    workers=(("celery", "-A", "jobs", "worker", "--concurrency", "2", "--loglevel", "warning"),),
    web=tuple(f"uvicorn web:application --port {{port}} {_TWO_QUIET}".split()),
    server="redis",
)
HUEY_REDIS = Contestant(
    name="huey-redis",
    title="Huey on Redis",
    folder="huey_queue",
    workers=(("huey_consumer", "jobs.huey", "--workers", "2", "--worker-type", "process", "--quiet"),),
    server="redis",
)
HUEY_SQLITE = Contestant(name="huey-sqlite", title="Huey on SQLite", folder="huey_queue", workers=HUEY_REDIS.workers)
HUEY_SQLITE_UNSAFE = Contestant(
    name="huey-sqlite-unsafe",
    title="Huey on SQLite, synchronous=OFF",
    folder="huey_queue",
    workers=HUEY_REDIS.workers,
    env={"BENCH_UNSAFE": "1"},
)
PROCRASTINATE = Contestant(
    name="procrastinate",
    title="Procrastinate",
    folder="procrastinate_queue",
    workers=(("procrastinate", "--app", "jobs.app", "worker"),) * 2,
    server="postgresql",
    env={"PROCRASTINATE_VERBOSE": "0"},
)
DJANGO_TASKS = Contestant(
    name="django-tasks-db",
    title="django-tasks-db",
    folder="django_tasks",
    workers=(("python", "-m", "django", "db_worker", "--verbosity", "0"),) * 2,
    env={"DJANGO_SETTINGS_MODULE": "settings"},
)
DJANGO_TASKS_POSTGRESQL = Contestant(
    name="django-tasks-db-postgresql",
    title="django-tasks-db on PostgreSQL",
    folder="django_tasks",
    workers=DJANGO_TASKS.workers,
    server="postgresql",
    env=DJANGO_TASKS.env,
)
DJANGO_Q2 = Contestant(
    name="django-q2",
    title="django-q2, defaults",
    folder="django_q2",
    workers=(("python", "-m", "django", "qcluster"),),
    env={"DJANGO_SETTINGS_MODULE": "settings"},
)
DJANGO_Q2_TUNED = Contestant(
    name="django-q2-tuned",
    title="django-q2, tuned",
    folder="django_q2",
    workers=DJANGO_Q2.workers,
    env={**DJANGO_Q2.env, "BENCH_TUNED": "1"},
)
DJANGO_Q2_TUNED_POSTGRESQL = Contestant(
    name="django-q2-tuned-postgresql",
    title="django-q2, tuned, on PostgreSQL",
    folder="django_q2",
    workers=DJANGO_Q2.workers,
    server="postgresql",
    env=DJANGO_Q2_TUNED.env,
)
# The program that Notifier stands in for, as the tests have it.
_PROGRAM = f"uvicorn query:app --app-dir {PROJECT}/tests/support/fastapi_programs --port {{port}}"
FASTAPI = Contestant(
    name="fastapi",
    title="FastAPI BackgroundTasks",
    folder="fastapi_program",
    web=tuple(f"{_PROGRAM} {_TWO_QUIET}".split()),
)
