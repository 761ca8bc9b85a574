"""A PostgreSQL that takes statements and does not answer the COMMIT: a synchronous standby is missing."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from durable_queue.cluster.supervisor import STUCK
from tests.support import environment
from tests.support.processes import manage, processes_of, queue_workers, wait_until

pytestmark = pytest.mark.skipif(environment.DATABASE == "sqlite", reason="SQLite has no server")


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


def test_workers__that_start_meanwhile_wait(server: Server, tmp_path: Path) -> None:
    """They are neither killed for waiting, nor leave a connection each time."""
    env = {
        "NOTIFIER_DATA_DIR": str(tmp_path / "var"),
        "NOTIFIER_LOG_FILE": str(tmp_path / "log.txt"),
        "DATABASE_URL": server.url,
    }
    output = tmp_path / "output"
    manage("migrate", env=env)
    with queue_workers(env=env, output=output):
        with server.without_standby():
            wait_until(lambda: server.connections() >= 2, what="both workers wait")
            waiting = {process.pid for process in processes_of(env)}
            time.sleep(STUCK + 3)
            assert {process.pid for process in processes_of(env)} == waiting, output.read_text()
            assert server.connections() <= 2 * 2 + 1
        command = "from django_q.tasks import async_task; print(async_task('math.hypot', 3, 4))"
        manage("shell", "-c", command, env=env | {"SECRET_KEY": os.environ.get("SECRET_KEY", "")})
        wait_until(lambda: server.run("SELECT count(*) FROM django_q_task") == [(1,)], what="the task is done")
    assert "gave no sign of life" not in output.read_text()
