"""Run what is due in this process, one attempt after the other, as a worker of one thread does: no process has to start."""

import contextvars
import uuid
from datetime import UTC, datetime
from pathlib import Path

from django_q.models import OrmQ

from durable_queue.store.broker import Broker
from durable_queue.store.leases import Settlement
from durable_queue.work.attempt import Attempt
from durable_queue.work.follow_ups import follow_up
from durable_queue.work.keeper import Keeper
from durable_queue.work.progress import Progress
from tests.support.queue_rows import worker


def run_due(folder: Path) -> list[Settlement]:
    """Claim all rows that wait, due or not, run each once, and settle what became of it."""
    OrmQ.objects.update(lock=datetime.now(UTC))
    broker, me = Broker(follow_up=follow_up), worker(uuid.uuid4().hex)
    progress = Progress(folder / f"{me.name}.progress")
    try:
        rows = broker.settle_and_claim(me, claim=100).rows
        settled = [
            contextvars.Context().run(_run, Attempt(row, progress.slot(0), "alice", Keeper(me, progress), 0.0)) for row in rows
        ]
        broker.settle_and_claim(me, settled)
    finally:
        progress.remove()
        me.delete()
    return settled


def _run(attempt: Attempt) -> Settlement:
    return attempt.read() or attempt.run()
