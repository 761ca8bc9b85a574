"""One attempt at a task, in this process."""

import gc
import weakref
from datetime import UTC, datetime
from pathlib import Path

from django.db import connections

from durable_queue.intake.packaging import new_task
from durable_queue.models import Worker
from durable_queue.store.leases import Row
from durable_queue.task import signing
from durable_queue.task.calls import resolve
from durable_queue.work.attempt import Attempt
from durable_queue.work.keeper import Keeper
from durable_queue.work.progress import Progress


def test_attempt__is_freed_at_its_end(tmp_path: Path) -> None:
    """Not by the collector, which would go through all tasks: a tenth of the rate at which a queue is drained."""
    connections.close_all()  # which an earlier test may have left open: its state would be asked for
    progress = Progress(tmp_path / "alice.progress")
    payload = signing.dumps(new_task("math.copysign", (1, -1), {}, name="bob"))
    row = Row(id=1, payload=payload, attempts=0, losses=0, due=datetime.now(UTC))
    resolve("math.copysign")  # importing leaves a frame behind, once
    attempt = Attempt(row, progress.slot(0), "alice", Keeper(Worker(), progress), 0.0)
    gc.disable()
    try:
        assert attempt.read() is None
        settlement = attempt.run()
        assert settlement.task["result"] == -1.0
        seen = weakref.ref(attempt)
        del attempt
        assert seen() is None
    finally:
        gc.enable()
        progress.remove()
