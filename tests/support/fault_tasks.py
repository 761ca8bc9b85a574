"""Tasks that go wrong once: for `scripts/chaos faults`."""

import ctypes
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any, NoReturn

from django.db import transaction

from durable_queue import retry
from durable_queue.models import Note


def die(mark: str) -> None:
    """Take the worker along, once: the next attempt finds the mark."""
    path = Path(mark)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@retry(attempts=1)
def leave_transaction_open() -> None:
    """Begin a transaction, write, and forget it. On SQLite nobody else can write meanwhile."""
    transaction.atomic().__enter__()
    Note.objects.create(task_id="0" * 32, text="left open")


@retry(base=0.1, factor=1.0)
def write_when_told(mark: str) -> None:
    """Begin, wait until the mark is there, and write to the database."""
    path = Path(mark)
    path.with_name(f"{path.name}.{uuid.uuid4().hex}").touch()
    while not path.exists():
        time.sleep(0.05)
    Note.objects.create(task_id="0" * 32, text=uuid.uuid4().hex)


@retry(attempts=1)
def set_signals_aside(seconds: float) -> None:
    """Hear no signal any more, for so many seconds."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        ctypes.CDLL(None).signal(int(number), 1)  # SIG_IGN; Python's own function is for the main thread
    time.sleep(seconds)


@retry(attempts=1)
def chatter(megabytes: int) -> None:
    """Print so much."""
    for _ in range(megabytes):
        os.write(1, (b"chatter " * 100 + b"\n") * 1300)


def hang(task: Any) -> NoReturn:
    """A hook that never comes back."""
    while True:
        time.sleep(0.1)
