"""What an answer promises: a 200, that the request is queued; a 503, that it is not known to be."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from django.test import AsyncClient
from django_q.models import OrmQ

from tests.support import environment, selection
from tests.support.installations import QueueTable, execute, queue_table
from tests.support.processes import free_port, manage, queue_workers, wait_until, web
from tests.support.raw_http import Connection, Request

ALICE = Request(target="/send-notification/alice?q=a")
PATIENCE = 5  # seconds that a client may have to wait for a 503


@contextmanager
def served(env: dict[str, str], folder: Path) -> Iterator[Connection]:
    """A connection to an installation's web server; no worker runs."""
    port = free_port()
    with web(env=env, port=port, output=folder / "web-output"), Connection(port) as connection:
        yield connection


@pytest.fixture
def queue(installation: dict[str, str]) -> Iterator[QueueTable]:
    """The installation's queue, its tables made."""
    manage("migrate", "--verbosity=0", env=installation)
    with queue_table(installation) as table:
        yield table


def assert_refused(connection: Connection) -> None:
    """A post is answered soon, with an honest no."""
    before = time.monotonic()
    answer = connection.ask(ALICE)
    assert time.monotonic() - before < PATIENCE
    assert (answer.status, answer.headers["content-type"]) == (503, "application/json")
    assert int(answer.headers["retry-after"]) >= 1
    assert json.loads(answer.body).keys() == {"detail"}


def test_queue__locked(installation: dict[str, str], queue: QueueTable, tmp_path: Path) -> None:
    with served(installation, tmp_path) as connection:
        assert connection.ask(ALICE).status == 200
        with queue.locked():
            assert_refused(connection)
            assert connection.ask(Request(target="/", method="GET")).status == 404
        wait_until(lambda: connection.ask(ALICE).status == 200, timeout=1.0, what="it heals")
    # On PostgreSQL the answer came too late, and nobody knew whether the task was queued: it may be, once.
    assert queue.waiting() == (2 if environment.DATABASE == "sqlite" else 3)
    said = (tmp_path / "web-output").read_text()
    assert said.count("Tasks could not be enqueued (1): ") == 1, "one line for each batch"
    assert "Traceback" not in said


@selection.slow_on_postgresql
def test_queue__without_tables(installation: dict[str, str], tmp_path: Path) -> None:
    with served(installation, tmp_path) as connection:
        assert_refused(connection)
        manage("migrate", "--verbosity=0", env=installation)
        with Connection(connection.port) as fresh:  # a server keeps none that is idle for so long
            assert fresh.ask(ALICE).status == 200


@selection.on_postgresql
def test_queue__in_sessions_that_were_read_only(installation: dict[str, str], log_file: Path, tmp_path: Path) -> None:
    """As after a failover: they stay so, though the database is writable again. The web, workers and tasks begin new ones."""
    manage("migrate", "--verbosity=0", env=installation)
    password = {"DJANGO_SUPERUSER_PASSWORD": "password"}
    manage("createsuperuser", "--no-input", "--username=admin", "--email=", env=installation | password)
    name, go, output = installation["DATABASE_URL"].partition("?")[0].rpartition("/")[2], tmp_path / "go", tmp_path / "output"

    def count(rows: str) -> int:
        return int(execute(installation, f"SELECT count(*) FROM {rows}")[0][0])  # noqa: S608 - of this test

    def log_in() -> int:
        with httpx.Client(base_url=url, timeout=10) as client:
            client.get("/admin/login/")
            form = {"username": "admin", "password": "password", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
            return client.post("/admin/login/", data=form).status_code

    def post() -> int:
        return httpx.post(f"{url}/send-notification/alice", timeout=10).status_code

    port, said = free_port(), tmp_path / "web-output"
    url = f"http://127.0.0.1:{port}"
    with (
        web(env=installation, port=port, output=said),
        environment.administration() as cursor,
        queue_workers(env=installation, output=output),
    ):
        task = f"async_task('tests.support.fault_tasks.write_when_told', {str(go)!r})"
        manage("shell", "-c", f"from django_q.tasks import async_task\nfor _ in range(4): {task}", env=installation)
        wait_until(lambda: len(list(tmp_path.glob("go.*"))) == 4, what="they have begun")
        cursor.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        wait_until(lambda: post() == 503 and "read-only transaction" in said.read_text(), what="it is")
        assert log_in() >= 500
        go.touch()
        wait_until(lambda: "read-only transaction" in output.read_text(), what="the workers have such sessions, too")
        cursor.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = off')
        wait_until(lambda: post() == 200, timeout=5, what="the web heals")
        assert log_in() == 302
        wait_until(log_file.exists, timeout=5, what="the workers heal")
        wait_until(lambda: count("django_q_task WHERE success AND func LIKE '%write_when_told'") == 4, what="the tasks heal")


@selection.slow_on_postgresql
def test_queue__no_worker_runs(installation: dict[str, str], queue: QueueTable, log_file: Path, tmp_path: Path) -> None:
    with served(installation, tmp_path) as connection:
        assert connection.ask(ALICE).status == 200
    assert queue.waiting() == 1
    assert not log_file.exists()
    with queue_workers(env=installation, output=tmp_path / "queue-output"):
        wait_until(lambda: queue.waiting() == 0, what="the queue is empty")
    assert log_file.read_text() == "found query: a\nmessage to alice\n"
    assert queue.accepted() == 1


@selection.slow
def test_queue__locked_for_many_clients(installation: dict[str, str], queue: QueueTable, tmp_path: Path) -> None:
    port = free_port()
    with web(env=installation, port=port, output=tmp_path / "web-output"), queue.locked():
        waits = []

        def post() -> None:
            before = time.monotonic()
            with Connection(port, timeout=30) as connection:
                assert connection.ask(ALICE).status == 503
            waits.append(time.monotonic() - before)

        clients = [threading.Thread(target=post) for _ in range(12)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert len(waits) == len(clients)
    assert max(waits) < 3 * PATIENCE  # together, and not each after the other: that would be 24 s on SQLite
    assert queue.waiting() <= (0 if environment.DATABASE == "sqlite" else len(clients)), "at most once each"


@selection.slow
@selection.on_sqlite
def test_queue__locked_makes_the_next_impatient_for_a_while(
    installation: dict[str, str], queue: QueueTable, tmp_path: Path
) -> None:
    """Not for ever: a database that is slow takes its time for each."""
    port, waits = free_port(), []
    with web(env=installation, port=port, output=tmp_path / "web-output"), queue.locked(), Connection(port) as connection:
        for pause in (0, 0, 3.5):
            time.sleep(pause)
            began = time.monotonic()
            assert connection.ask(ALICE).status == 503
            waits.append(time.monotonic() - began)
    first, second, later = waits
    assert second < 1.5 < min(first, later), waits


def test_queue__locked_for_clients_that_keep_coming(installation: dict[str, str], queue: QueueTable, tmp_path: Path) -> None:
    """Who comes while a batch waits is not made to wait for one batch after the other."""
    port, waits = free_port(), []

    async def post() -> None:
        before = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /send-notification/alice HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b" 503 " in await reader.readline()
        writer.close()
        waits.append(time.monotonic() - before)

    async def keep_coming() -> None:
        async with asyncio.TaskGroup() as clients:
            for _ in range(800):
                clients.create_task(post())
                await asyncio.sleep(0.005)

    with web(env=installation, port=port, output=tmp_path / "web-output"), queue.locked():
        asyncio.run(keep_coming(), debug=False)  # the clients' own time counts too, and watched ones are slow
    assert len(waits) == 800
    assert max(waits) < 2 * PATIENCE
    if environment.DATABASE == "postgresql":  # one batch waits for an answer, and those that follow are refused at once
        assert min(waits) < 1.5
        return
    told = [line for line in (tmp_path / "web-output").read_text().splitlines() if "Tasks could not be enqueued" in line]
    given_up = [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=UTC) for line in told]
    quickest = min(later - earlier for earlier, later in pairwise(given_up))
    assert quickest.total_seconds() < 1.9, "the batches after the first give up sooner than SQLite's own 2 seconds"


@selection.slow_on_postgresql
def test_request__too_long(installation: dict[str, str], queue: QueueTable, tmp_path: Path) -> None:
    with served(installation, tmp_path) as connection:
        connection.send(b"POST /send-notification/" + b"a" * 1_000_000)
        with suppress(ConnectionError):  # closed before it had read all, it may reset the connection, and its answer is lost
            assert connection.receive().status == 400
    assert queue.waiting() == 0


@selection.slow_on_postgresql
@pytest.mark.parametrize("content_type", ["text/plain; a*=nosuch''x", "text/plain; charset*=utf-8''%00", "\xff"])
def test_request__odd_content_type(content_type: str, installation: dict[str, str], queue: QueueTable, tmp_path: Path) -> None:
    with served(installation, tmp_path) as connection:
        assert connection.ask(replace(ALICE, headers={"Content-Type": content_type})).status == 200
    assert queue.waiting() == 1


@selection.slow_on_postgresql
def test_admin__body_longer_than_any_form(installation: dict[str, str], queue: QueueTable, tmp_path: Path) -> None:
    form = Request(target="/admin/login/", headers={"Content-Length": "10000000000"})
    with served(installation, tmp_path) as connection:
        assert connection.ask(form).status == 413
    with served(installation, tmp_path) as connection:
        assert connection.ask(replace(form, headers={"Transfer-Encoding": "chunked"})).status == 411


@pytest.mark.django_db
@pytest.mark.parametrize("target", ["/send-notification/alice", "/basic/send-notification/alice"])
def test_csrf__no_token_needed(target: str) -> None:
    response = asyncio.run(AsyncClient(enforce_csrf_checks=True).post(target, {"email": "bob"}))
    assert response.status_code == 200
    assert not response.cookies
    assert OrmQ.objects.count() == 1


@pytest.mark.django_db
def test_csrf__redirect_needs_no_token_either() -> None:
    response = asyncio.run(AsyncClient(enforce_csrf_checks=True).post("/send-notification/alice/"))
    assert response.status_code == 307
    assert not OrmQ.objects.exists()
