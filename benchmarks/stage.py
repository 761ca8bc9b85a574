"""Where a contestant performs: a folder, a database, a log file and processes of its own, gone at the end."""

import os
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psycopg

from benchmarks import servers
from benchmarks.contestants import PEERS, Contestant
from tests.support.processes import free_port, is_listening, running, wait_until

CLIENT = PEERS / "client.py"
CLIENT_LIMIT = 900  # seconds that a client may take for all its lines
START_LIMIT = 60.0  # seconds
BACKLOG = 2048  # as in notifier_project/service/serve.py


def answers(port: int) -> bool:
    """Whether a web server answers here, with any status."""
    with suppress(OSError, HTTPException), closing(HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
        connection.request("HEAD", "/")
        return bool(connection.getresponse().status)
    return False


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A contestant's own installation."""

    contestant: Contestant
    folder: Path
    env: dict[str, str]
    server: list[int]  # the process of its database server or broker, if it has one
    started: list[int]  # the processes of its own

    @property
    def pids(self) -> list[int]:
        """All that has been started for it."""
        return self.server + self.started

    @property
    def log(self) -> Path:
        """The file that the lines go to."""
        return self.folder / "log.txt"

    @property
    def effects(self) -> Path:
        """The file that slow jobs leave their effects in."""
        return self.folder / "effects.txt"

    @property
    def output(self) -> Path:
        """What its processes print."""
        return self.folder / "output.txt"

    def program(self, words: tuple[str, ...]) -> list[str | Path]:
        """A command line with the environment's own program."""
        return [self.contestant.bin / words[0], *words[1:]]

    def client(self, *arguments: str, script: Path = CLIENT) -> str:
        """Run the client, or another script, in this contestant's environment; return what it printed."""
        command = [*self.program(("python", "-P", str(script))), *arguments]
        with self.output.open("ab") as output:
            done = subprocess.run(
                command,
                env=os.environ | self.env,
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                timeout=CLIENT_LIMIT,
                check=False,
            )
        if done.returncode:
            raise SystemExit(f"{self.contestant.title}: {' '.join(arguments)} failed:\n{self.output.read_text()[-3000:]}")
        return done.stdout

    @contextmanager
    def workers(self) -> Iterator[None]:
        """Two workers, at least about to work."""
        with ExitStack() as stack:
            for words in self.contestant.workers:
                stack.enter_context(self._running(words))
            yield

    @contextmanager
    def web(self) -> Iterator[int]:
        """Two web processes, ready to answer; yields their port."""
        if self.contestant.folder == "notifier":
            with self._web_on_a_socket() as port:
                yield port
            return
        port = free_port()
        with self._running(tuple(word.replace("{port}", str(port)) for word in self.contestant.web)) as process:
            wait_until(lambda: is_listening(port) or process.poll() is not None, what="the web server listens")
            yield port

    @contextmanager
    def _web_on_a_socket(self) -> Iterator[int]:
        """As notifier_project/service/serve.py does it."""
        with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener, ExitStack() as stack:
            env = {**self.env, "WEB_SOCKET": str(listener.fileno())}
            for _ in range(2):
                stack.enter_context(self._running(self.contestant.web, env=env, pass_fds=(listener.fileno(),)))
            port: int = listener.getsockname()[1]
            wait_until(lambda: answers(port), what="the web answers")
            time.sleep(1.0)  # until the other one does, too
            yield port

    @contextmanager
    def service(self) -> Iterator[int]:
        """All of it: web and workers. Notifier is started as a person does it, and is ready when it says so."""
        if self.contestant.folder != "notifier":
            with self.web() as port, self.workers():
                yield port
            return
        port = free_port()
        words = ("python", "-m", "notifier_project.service.serve")
        with self._running(words, env={**self.env, "PORT": str(port)}, cwd=self.contestant.project) as process:
            wait_until(
                lambda: b"Notifier is ready" in self.output.read_bytes() or process.poll() is not None,
                timeout=START_LIMIT,
                what="the service is ready",
            )
            yield port

    @contextmanager
    def _running(
        self,
        words: tuple[str, ...],
        *,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> Iterator[subprocess.Popen[bytes]]:
        command, folder = self.program(words), cwd or self.folder
        with running(command, env=env or self.env, output=self.output, cwd=folder, pass_fds=pass_fds) as process:
            self.started.append(process.pid)
            yield process

    def waiting(self) -> int:
        """How many tasks of Notifier's are due and not done, seen from outside."""
        return self.count("django_q_ormq WHERE lock <= CURRENT_TIMESTAMP OR lock > '2900-01-01'")

    def count(self, rows: str) -> int:
        """How many rows of Notifier's there are: `rows` names the table, and may say which of them."""
        question = f"SELECT count(*) FROM {rows}"  # noqa: S608 - ours
        if url := self.env["DATABASE_URL"]:
            with psycopg.connect(url) as connection:
                return int(connection.execute(question.encode()).fetchall()[0][0])
        with closing(sqlite3.connect(self.folder / "var" / "db.sqlite3", timeout=30)) as connection:
            return int(connection.execute(question).fetchone()[0])


@contextmanager
def stage(contestant: Contestant) -> Iterator[Stage]:
    """Set a contestant up, its tables created and empty."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"notifier-bench-{contestant.name}-")))
        env = {
            "PYTHONPATH": os.pathsep.join(str(path) for path in (PEERS / contestant.folder, PEERS, contestant.project)),
            "PYTHONUNBUFFERED": "1",
            "BENCH_FOLDER": str(folder),
            "BENCH_LOG": str(folder / "log.txt"),
            "BENCH_EFFECTS": str(folder / "effects.txt"),
            "NOTIFIER_DATA_DIR": str(folder / "var"),
            "NOTIFIER_LOG_FILE": str(folder / "log.txt"),
            "DATABASE_URL": "",
            **contestant.env,
        }
        pids = []
        if contestant.server:
            start, name = {"redis": (servers.redis(folder), "REDIS_URL"), "postgresql": (servers.database(), "DATABASE_URL")}[
                contestant.server
            ]
            server = stack.enter_context(start)
            env[name] = server.url
            pids.append(server.pid)
        found = Stage(contestant=contestant, folder=folder, env=env, server=pids, started=[])
        if contestant.workers:
            found.client("prepare")
        yield found
