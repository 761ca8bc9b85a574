"""Users who act on tasks at the very moment at which a worker, or another user, does: a scenario of `scripts/chaos`."""

import logging
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import connections
from django_q.models import Failure, OrmQ, Task
from django_q.tasks import async_task

from durable_queue import verbs
from durable_queue.intake import packaging
from durable_queue.models import Cancellation, Worker
from durable_queue.states import State
from durable_queue.status import status_of
from durable_queue.store.broker import Broker
from durable_queue.verbs import Came
from tests.support.chaos_cluster import WORKERS, cluster, reset
from tests.support.processes import wait_until

WRITE = "tests.support.thread_tasks.write_line"
FAIL = "tests.support.cluster_tasks.fail"
LATEST = 0.01  # seconds after which the second one acts
USERS = 2


def verbs_against_others(quick: bool) -> str:
    """Cancel and run-now against claims, retry against retry."""
    rounds = 50 if quick else 1000
    verbs.logger.setLevel(logging.WARNING)  # a line for each of thousands
    with cluster() as process:
        wait_until(lambda: Worker.objects.count() == WORKERS, timeout=60, what="the workers work")
        cancelled = _cancel_against_claim(rounds)
        brought_forward = _run_now_against_claim(rounds)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    _retry_against_retry(rounds)
    return f"{rounds} each: {cancelled}; {brought_forward}; of {USERS} who retried at once, one did"


def _lines() -> Counter[str]:
    path = Path(settings.NOTIFIER_LOG_FILE)
    return Counter(path.read_text().splitlines() if path.exists() else [])


def _has_ended() -> bool:
    return not OrmQ.objects.exists()


def _cancel_against_claim(rounds: int) -> str:
    """A task that was cancelled before it began is never written, any other one once."""
    reset()
    tasks = {}
    for number in range(rounds):
        task_id = async_task(WRITE, f"cancel {number}", random.choice([0.0, 0.0, 0.002]))
        time.sleep(random.uniform(0.0, LATEST))
        tasks[task_id] = (f"cancel {number}", verbs.cancel(task_id, by="chaos"))
    wait_until(_has_ended, timeout=120, what="all tasks have ended")
    lines = _lines()
    for task_id, (line, came) in tasks.items():
        found = status_of(task_id)
        assert found, f"{line} is nowhere"
        if came is Came.DONE:
            assert (found.state, lines[line]) == (State.CANCELLED, 0), (line, found)
        elif came is Came.ASKED:
            assert (found.state, lines[line]) in ((State.CANCELLED, 0), (State.SUCCEEDED, 1)), (line, found)
        else:
            assert (came, found.state, lines[line]) == (Came.REFUSED, State.SUCCEEDED, 1), (line, came, found)
        assert bool(found.cancel_requested_at) == (came is not Came.REFUSED), (line, came, found)
    assert not Cancellation.objects.exclude(pk__in=tasks).exists()
    count = Counter(came.value for _, came in tasks.values())
    return ", ".join(
        f"{count[came]} {said}" for came, said in (("done", "cancelled"), ("asked", "asked"), ("refused", "too late"))
    )


def _run_now_against_claim(rounds: int) -> str:
    """Each task is written once, whoever comes first."""
    reset()
    came = Counter[str]()
    for number in range(rounds):
        due = datetime.now(UTC) + timedelta(seconds=random.uniform(0.0, LATEST))
        packed = packaging.packed(WRITE, (f"run now {number}", 0.0), {}, name="run now", options={}, queued=datetime.now(UTC))
        Broker().enqueue_all([packed.payload], due=due)
        time.sleep(random.uniform(0.0, LATEST))
        came[verbs.run_now(packed.id, by="chaos").value] += 1
    wait_until(_has_ended, timeout=120, what="all tasks have ended")
    lines = _lines()
    assert all(lines[f"run now {number}"] == 1 for number in range(rounds)), lines.most_common(3)
    assert Task.objects.filter(success=True).count() == rounds
    return ", ".join(f"{count} {what}" for what, count in sorted(came.items()))


def _retry_against_retry(rounds: int) -> None:
    """Of several who retry a failed task, one does: it is queued once."""
    reset()
    for _ in range(rounds):
        async_task(FAIL, ack_failure=True)
    with cluster() as process:
        wait_until(lambda: Failure.objects.count() == rounds, timeout=120, what="all have failed")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    with ThreadPoolExecutor(USERS) as users:
        for task_id in list(Failure.objects.values_list("pk", flat=True)):
            going = [users.submit(verbs.retry, task_id, by="chaos") for _ in range(USERS)]
            assert sorted(each.result(30) for each in going) == [Came.DONE, *[Came.REFUSED] * (USERS - 1)]
        for _ in range(USERS):
            users.submit(connections.close_all).result(10)
    assert (OrmQ.objects.count(), Failure.objects.count()) == (rounds, 0)
