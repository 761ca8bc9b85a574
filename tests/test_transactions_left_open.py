"""A transaction that a task leaves open locks nobody out: POSTs go on beside it, in every way in which one is left open."""

import time
from pathlib import Path

import httpx

from tests.support.installations import execute, queue_table
from tests.support.processes import free_port, manage, service, wait_until

WAYS = ("leave_transaction_open", "leave_autocommit_off", "begin_by_hand", "leave_transaction_open_in_coroutine")
ATTEMPTS = 2  # that each of them fails while POSTs come in
LATEST = 2.0  # seconds until a POST is answered


def test_posts__beside_transactions_left_open(installation: dict[str, str], log_file: Path, tmp_path: Path) -> None:
    port, times, answers = free_port(), list[float](), list[int]()
    with (
        service(env=installation, port=port, output=tmp_path / "output"),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
        queue_table(installation) as queue,
    ):
        execute(installation, "CREATE TABLE mark (name varchar(50))")
        tasks = "".join(f"; async_task('tests.support.side_by_side_tasks.{way}')" for way in WAYS)
        manage("shell", "-c", f"from django_q.tasks import async_task{tasks}", env=installation)

        def have_failed() -> bool:
            began = time.monotonic()
            answers.append(client.post(f"/send-notification/alice-{len(answers)}").status_code)
            times.append(time.monotonic() - began)
            failed = execute(installation, "SELECT count(*) FROM durable_queue_failedattempt GROUP BY task_id")
            return len(failed) == len(WAYS) and min(failed) >= (ATTEMPTS,)

        wait_until(have_failed, timeout=20, what="they have failed")
        wait_until(lambda: queue.waiting() == len(WAYS), what="all is written, and nothing else has ended")
    assert (set(answers), max(times) < LATEST) == ({200}, True), (answers, times)
    assert sorted(log_file.read_text().splitlines()) == sorted(f"message to alice-{n}" for n in range(len(answers)))
    errors = execute(installation, "SELECT error FROM durable_queue_failedattempt")
    assert len(errors) >= ATTEMPTS * len(WAYS)
    assert all("left a database transaction open" in error for (error,) in errors)
    assert execute(installation, "SELECT count(*) FROM mark") == [(0,)]
