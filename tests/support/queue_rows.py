"""Workers' rows, and a worker's end of the FIFO of hints."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from durable_queue.conf import cluster_conf
from durable_queue.models import Worker
from durable_queue.store import wakeup


def worker(name: str, *, host: str = "elsewhere", pid: int = 2**22, silent_for: float = 0.0, queue: str = "notifier") -> Worker:
    """A worker's row. `pid`: beyond the kernel's largest, if it isn't given."""
    now = datetime.now(UTC)
    return Worker.objects.create(
        name=name,
        queue=queue,
        host=host,
        pid=pid,
        born=1,
        supervisor=uuid.uuid4(),
        supervisor_pid=1,
        started=now,
        heartbeat=now - timedelta(seconds=silent_for),
    )


@contextmanager
def listener(queue: str) -> Iterator[wakeup.Ear]:
    """A worker's end of the FIFO. It is closed at the end, as if the worker had died."""
    signals, other = os.pipe()
    cluster_conf.run_dir.mkdir(parents=True, exist_ok=True)
    ear = wakeup.Ear(queue, signals)
    while ear.wait(0):
        pass  # what the test before left
    try:
        yield ear
    finally:
        ear.close()
        os.close(signals)
        os.close(other)
