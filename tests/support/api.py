"""A web process on the database of the running test, and what clients ask it."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.utils import timezone

from durable_queue.intake import packaging
from durable_queue.store.broker import Broker
from tests.support import environment
from tests.support.processes import free_port, wait_until, web
from tests.support.raw_http import Answer, Connection, Request

PATIENCE = 40.0  # seconds for an answer: longer than anybody may wait
OLIVIA = "of-olivia-0123456789"  # her token, which is good for everything
UNKNOWN = "0123456789abcdef0123456789abcdef"  # no task has this id


class Api:
    """The web process, as clients see it."""

    def __init__(self, port: int, output: Path, process: "subprocess.Popen[bytes]") -> None:
        self.port, self.output, self.process = port, output, process

    def ask(self, method: str, target: str, **headers: str) -> Answer:
        """The answer to a request on a connection of its own. `X_Forwarded_For="…"` is a header."""
        named = {name.replace("_", "-"): value for name, value in {"Authorization": f"Bearer {OLIVIA}", **headers}.items()}
        with Connection(self.port, timeout=PATIENCE) as connection:
            return connection.ask(Request(target=target, method=method, headers=named))

    def get(self, target: str, **headers: str) -> Any:
        """What is answered with 200, read from JSON."""
        answer = self.ask("GET", target, **headers)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer
        assert answer.headers["cache-control"] == "no-store"
        return json.loads(answer.body)

    def task(self, task_id: str) -> dict[str, Any]:
        """A task."""
        return dict(self.get(f"/tasks/{task_id}"))

    def wait_for(self, task_id: str, *statuses: str) -> dict[str, Any]:
        """The task, once it is in one of these states."""
        wait_until(lambda: self.task(task_id)["status"] in statuses, what=f"{task_id} is {statuses}")
        return self.task(task_id)

    def act(self, method: str, target: str) -> tuple[int, Any]:
        """The status of an answer, and its content."""
        answer = self.ask(method, target)
        return answer.status, json.loads(answer.body) if answer.body else None


@contextmanager
def api(folder: Path, *, env: Mapping[str, str] | None = None) -> Iterator[Api]:
    """A web process on the database of the running test, with the data folder of the run."""
    port, output, tokens = free_port(), folder / "web-output", folder / "tokens"
    tokens.write_text(f"olivia {OLIVIA} write,read,manage\n")
    tokens.chmod(0o600)
    own = on_test_database() | {"NOTIFIER_TOKENS_FILE": str(tokens)}
    with web(env=own | dict(env or {}), port=port, output=output) as process:
        yield Api(port, output, process)


def on_test_database() -> dict[str, str]:
    """The environment of processes that share the running test's database, data folder and key."""
    return {"DATABASE_URL": environment.database_url_of_test(), "DJANGO_SETTINGS_MODULE": "tests.support.api_settings"}


def queue(func: str, *args: Any, name: str = "alice", seconds: float | None = None, **options: Any) -> str:
    """Queue a task, due after so many seconds; return its id."""
    packed = packaging.packed(f"tests.support.api_tasks.{func}", args, {}, name=name, options=options, queued=timezone.now())
    due = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
    Broker().enqueue_all([packed.payload], due=due)
    return packed.id


@contextmanager
def waiting(client: Api, target: str, **headers: str) -> Iterator[Any]:
    """Have a client ask, in a thread of its own; gives its answer as a future."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(client.ask, "GET", target, **headers)
        time.sleep(0.2)  # most likely it waits by now; where that matters, the test tells by what comes of it
        yield answer
