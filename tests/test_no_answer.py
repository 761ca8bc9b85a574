"""A PostgreSQL that takes statements and does not answer the COMMIT: a synchronous standby is missing."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest
from django.db import connection
from django_q.models import OrmQ

from durable_queue.cluster.supervisor import STUCK
from durable_queue.store.answers import NoAnswerError
from durable_queue.store.databases import table_of
from durable_queue.store.postgresql import prepared
from durable_queue.store.postgresql.prepared import Statement
from tests.support import environment, selection
from tests.support.processes import free_port, manage, processes_of, queue_workers, wait_until, web

pytestmark = selection.on_postgresql


class Server:
    """A server of the test's own, since all of it stands still."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, sql: str) -> list[tuple[object, ...]]:
        """Run a statement on a connection that never waits for a standby."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = local")
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def without_standby(self) -> Iterator[None]:
        """No COMMIT is answered, unless it asked not to wait."""
        self.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        self.run("SELECT pg_reload_conf()")
        wait_until(lambda: self.run("SHOW synchronous_standby_names") == [("nobody",)])
        try:
            yield
        finally:
            self.run("ALTER SYSTEM RESET synchronous_standby_names")
            self.run("SELECT pg_reload_conf()")

    def connections(self) -> int:
        """How many clients it has, this one not counted."""
        found = self.run("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        return int(str(found[0][0])) - 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with environment.own_server(tmp_path / "server") as url:
        yield Server(url)


@pytest.fixture
def env(server: Server, tmp_path: Path) -> dict[str, str]:
    """The environment of an installation on that server, its tables made."""
    env = {
        "NOTIFIER_DATA_DIR": str(tmp_path / "var"),
        "NOTIFIER_LOG_FILE": str(tmp_path / "log.txt"),
        "DATABASE_URL": server.url,
    }
    manage("migrate", env=env)
    return env


def test_workers__that_start_meanwhile_wait(server: Server, env: dict[str, str], tmp_path: Path) -> None:
    """They are neither killed for waiting, nor leave a connection each time."""
    output = tmp_path / "output"
    with queue_workers(env=env, output=output):
        with server.without_standby():
            wait_until(lambda: server.connections() >= 2, what="both workers wait")
            waiting = {process.pid for process in processes_of(env)}
            time.sleep(STUCK + 3)
            assert {process.pid for process in processes_of(env)} == waiting, output.read_text()
            assert server.connections() <= 2 * 2 + 4, "of two workers, and of the upkeep"
        command = "from django_q.tasks import async_task; print(async_task('math.hypot', 3, 4))"
        manage("shell", "-c", command, env=env | {"SECRET_KEY": os.environ.get("SECRET_KEY", "")})
        wait_until(lambda: server.run("SELECT count(*) FROM django_q_task") == [(1,)], what="the task is done")
    assert "gave no sign of life" not in output.read_text()


def test_workers__that_are_stopped_meanwhile(server: Server, env: dict[str, str], tmp_path: Path) -> None:
    """They end within the grace. The COMMIT that had no answer got through, as it happens: what had finished runs once."""
    effects, output = tmp_path / "effects", tmp_path / "output"
    effects.write_text("")
    secret = {"SECRET_KEY": os.environ.get("SECRET_KEY", "")}
    command = f"from django_q.tasks import async_task; async_task('tests.test_no_answer.effect', {str(effects)!r})"
    with queue_workers(env=env | {"NOTIFIER_STOP_GRACE": "3"}, output=output) as process:
        wait_until(lambda: server.run("SELECT count(*) FROM durable_queue_worker") == [(2,)], what="both workers wait")
        manage("shell", "-c", command, env=env | secret)
        wait_until(effects.read_text, what="the task runs")
        with server.without_standby():
            effects.with_name("go").touch()
            wait_until(lambda: len(effects.read_text().split()) == 2, what="the task has ended")
            time.sleep(0.5)
            process.terminate()
            began = time.monotonic()
            process.wait(20)
            assert time.monotonic() - began < 3 + 5, output.read_text()
            wait_until(lambda: not processes_of(env), what="no process is left", timeout=1)
    with queue_workers(env=env, output=output):
        wait_until(lambda: server.run("SELECT count(*) FROM django_q_task WHERE success") == [(1,)], what="the task is done")
    assert effects.read_text().split() == ["begun", "ended"]


def effect(path: str) -> None:
    """Note that this begins and ends; wait in between until `go` stands beside the notes."""
    notes = Path(path)
    for word in ("begun", "ended"):
        with notes.open("a") as file:
            file.write(f"{word}\n")
        wait_until(notes.with_name("go").exists, what="the test says so")


def test_posts__are_answered_at_once_and_queued_once_at_most(server: Server, env: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    output = tmp_path / "output"
    url = f"http://127.0.0.1:{port}/send-notification/"
    with (
        web(env=env, port=port, output=output) as process,
        ThreadPoolExecutor(20) as clients,
        httpx.Client(timeout=10) as client,
    ):

        def ask(name: str) -> tuple[int, float]:
            began = time.monotonic()
            return client.post(url + name).status_code, time.monotonic() - began

        assert ask("before")[0] == 200
        assert {code for code, _ in clients.map(ask, [f"before {number}" for number in range(20)])} == {200}
        connections = server.connections()
        with server.without_standby():
            code, took = ask("unknown")
            assert code == 503
            assert 0.9 < took < 2.5
            refused = [ask("refused"), *clients.map(ask, [f"refused {number}" for number in range(20)])]
            assert {code for code, _ in refused} == {503}
            assert max(took for _, took in refused) < 1.0
            assert server.connections() <= connections + 1
            assert httpx.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 404
        wait_until(lambda: ask("after")[0] == 200, what="it heals")
        assert ask("later")[0] == 200
        assert server.connections() <= connections + 1
        queued = server.run("SELECT count(*) FROM django_q_ormq")[0][0]
        assert queued == 1 + 20 + 1 + 2, "what was unknown is there, as it happens, once; what was refused isn't"
        with server.without_standby():
            assert ask("unknown")[0] == 503
            process.terminate()
            assert process.wait(10) == -signal.SIGTERM, "it ends while the database does not answer"
    said = output.read_text()
    assert "Traceback" not in said
    assert said.count("Tasks could not be enqueued (1): no answer within 1 s") == 2
    assert said.count("The database answers again") == 1


def test_posts__of_a_process_that_starts_meanwhile(server: Server, env: dict[str, str], tmp_path: Path) -> None:
    """Its very first commit has the same limit."""
    port = free_port()
    with server.without_standby(), web(env=env, port=port, output=tmp_path / "output"), httpx.Client(timeout=10) as client:
        for _ in range(2):
            began = time.monotonic()
            assert client.post(f"http://127.0.0.1:{port}/send-notification/alice").status_code == 503
            assert time.monotonic() - began < 3
        assert client.get(f"http://127.0.0.1:{port}/").status_code == 404


def test_admin__is_answered_in_the_place_of_its_thread(server: Server, env: dict[str, str], tmp_path: Path) -> None:
    """Who logs in writes a session. Once that takes 5 s, everybody is told at once, until the database has answered."""
    manage("createsuperuser", "--no-input", "--username=admin", "--email=", env=env | {"DJANGO_SUPERUSER_PASSWORD": "password"})
    port = free_port()
    output = tmp_path / "output"
    with (
        web(env=env, port=port, output=output) as process,
        ThreadPoolExecutor(2) as clients,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):

        def log_in() -> tuple[int, float]:
            client.get("/admin/login/")
            form = {"username": "admin", "password": "password", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
            began = time.monotonic()
            return client.post("/admin/login/", data=form).status_code, time.monotonic() - began

        assert log_in()[0] == 302
        connections = server.connections()
        with server.without_standby():
            login = clients.submit(log_in)
            time.sleep(1)
            behind = clients.submit(httpx.get, f"http://127.0.0.1:{port}/admin/login/", timeout=20)
            code, took = login.result()
            assert code == 503
            assert 4.9 < took < 7
            assert behind.result().status_code == 503, "it waited for the same thread"
            began = time.monotonic()
            refused = client.get("/admin/")
            assert refused.status_code == 503
            assert "has not answered for 5 seconds" in refused.text
            assert client.post("/send-notification/alice").status_code == 503
            assert time.monotonic() - began < 2.5
            assert server.connections() <= connections + 1
        wait_until(lambda: client.get("/admin/").status_code == 200, what="it heals")
        with server.without_standby():
            assert log_in()[0] == 503
            process.terminate()
            assert process.wait(10) == -signal.SIGTERM, "it ends while the database does not answer"
    assert "Traceback" not in output.read_text()


@pytest.mark.django_db(transaction=True)
def test_insert__many_in_one_statement() -> None:
    """In their order, whatever they hold."""
    texts = ["plain", 'a \\ and a "quote"', "ä", "{1,2}", "", "NULL", "a,b", "x" * 100_000]
    texts += [f"number {number}" for number in range(500)]
    connection.ensure_connection()
    last = table_of(connection).insert("notifier", texts, datetime.now(UTC))
    rows = list(OrmQ.objects.order_by("id").values_list("id", "payload"))
    assert [payload for _, payload in rows] == texts
    assert rows[-1][0] == last


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_lost", [False, True])
def test_pending__leaves_the_thread_a_connection(is_lost: bool) -> None:
    """What comes next on this thread finds one on which it can ask; the answer comes on the other, or never."""
    connection.ensure_connection()
    first = connection.connection
    slow = Statement("slow", "SELECT pg_sleep(0.3)::text")
    with prepared.answers_within(0.0), pytest.raises(NoAnswerError) as error:
        prepared.run(connection, slow, [])
    for _ in range(2):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    if is_lost:
        first.close()
    wait_until(error.value.pending.is_answered)
    assert first.closed
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
    assert error.value.pending.is_answered()
