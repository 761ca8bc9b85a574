"""Where a contestant performs: a folder, a database, a log file and processes of its own, gone at the end."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.contestants import PEERS, Contestant
from tests.processes import PROJECT, free_port, is_listening, running, wait_until

CLIENT = PEERS / "client.py"
CLIENT_LIMIT = 900  # seconds that a client may take for all its lines


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A contestant's own installation."""

    contestant: Contestant
    folder: Path
    env: dict[str, str]
    pids: list[int]  # of all that has been started for it

    @property
    def log(self) -> Path:
        """The file that the lines go to."""
        return self.folder / "log.txt"

    @property
    def output(self) -> Path:
        """What its processes print."""
        return self.folder / "output.txt"

    def program(self, words: tuple[str, ...]) -> list[str | Path]:
        """A command line with the environment's own program."""
        return [self.contestant.bin / words[0], *words[1:]]

    def client(self, *arguments: str) -> str:
        """Run the client of this contestant; return what it printed."""
        command = [*self.program(("python", "-P", str(CLIENT))), *arguments]
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
        port = free_port()
        with self._running(tuple(word.replace("{port}", str(port)) for word in self.contestant.web)) as process:
            wait_until(lambda: is_listening(port) or process.poll() is not None, what="the web server listens")
            yield port

    @contextmanager
    def _running(self, words: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
        with running(self.program(words), env=self.env, output=self.output, cwd=self.folder) as process:
            self.pids.append(process.pid)
            yield process


@contextmanager
def stage(contestant: Contestant) -> Iterator[Stage]:
    """Set a contestant up, its tables created and empty."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"notifier-bench-{contestant.name}-")))
        env = {
            "PYTHONPATH": os.pathsep.join(str(path) for path in (PEERS / contestant.folder, PEERS, PROJECT)),
            "PYTHONUNBUFFERED": "1",
            "BENCH_FOLDER": str(folder),
            "BENCH_LOG": str(folder / "log.txt"),
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
        found = Stage(contestant=contestant, folder=folder, env=env, pids=pids)
        if contestant.workers:
            found.client("prepare")
        yield found
