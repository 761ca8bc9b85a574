"""Hosts of their own, on one machine: namespaces, in which processes have other pids and another host's name."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support import selection
from tests.support.processes import running


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
