"""Hosts of their own, on one machine: namespaces, in which processes have other pids and another host's name."""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from django.conf import settings

from durable_queue.models import Worker
from tests.support import environment, selection
from tests.support.processes import running, wait_until


@contextmanager
def host(name: str, *, env: Mapping[str, str], output: Path, workers: int) -> Iterator[psutil.Process]:
    """A cluster of so many workers on a host of its own; killed at the end, with all that is in its namespace."""
    if os.geteuid():
        selection.missing("root, who may make namespaces")
    start = shlex.join([sys.executable, "manage.py", "qcluster", "--workers", str(workers)])
    inner = f"hostname {shlex.quote(name)} && exec {start}"
    command = ["unshare", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child", "sh", "-c", inner]
    with running(command, env=env, output=output) as process:
        yield psutil.Process(process.pid)
        process.kill()


@contextmanager
def working_host(name: str, folder: Path, **more: str) -> Iterator[None]:
    """A cluster of one worker on a host of its own, which shares nothing but the database and the notes' file."""
    env = {
        "NOTIFIER_DATA_DIR": str(folder / name),
        "NOTIFIER_LOG_FILE": str(folder / f"{name}.txt"),
        "DATABASE_URL": environment.database_url_of_test(),
        "SECRET_KEY": settings.SECRET_KEY,
        "NOTIFIER_QUEUE_THREADS": "6",  # so that each host gets a half of twelve tasks
    }
    with host(name, env=env | more, output=folder / f"{name}.output", workers=1):
        wait_until(lambda: Worker.objects.filter(host__startswith=name).exists(), what=f"{name} works")
        yield


def runs(notes: Path) -> Counter[str]:
    """How often each task has begun."""
    return Counter(line.split()[0] for line in notes.read_text().splitlines()) if notes.exists() else Counter()


def hosts_of(notes: Path) -> set[str]:
    """The hosts on which tasks have begun."""
    return {line.split()[1] for line in notes.read_text().splitlines()}
