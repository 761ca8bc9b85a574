"""Where the microseconds of one POST and of one drained task go: runs in Notifier's environment.

    profile.py post COUNT   calls the ASGI application so many times
    profile.py task COUNT   queues so many lines, then has one worker process drain them

A timer of the processor time interrupts every millisecond (setitimer(2), ITIMER_PROF). Each time counts for the part
that is being worked for: the first of PARTS that is met from the innermost frame outwards.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django_q.conf import Conf  # noqa: E402

TICK = 0.001  # seconds

# What a file's path holds, a function in it ("" for any), and the part that this is.
PARTS = (
    ("durable_queue/task/signing.py", "", "pickling and signing"),
    ("durable_queue/task/identifiers.py", "", "the task's id"),
    ("durable_queue/store/wakeup.py", "", "waking a worker"),
    ("durable_queue/store/sqlite/turns.py", "", "waiting for the turn to write"),
    ("/table.py", "insert", "the row: INSERT and COMMIT"),
    ("durable_queue/store/table.py", "save_history", "the history row"),
    ("/table.py", "claim", "claiming"),
    ("durable_queue/store/table.py", "delete", "deleting the queue row"),
    ("durable_queue/store/table.py", "count_attempts", "looking for earlier attempts"),
    ("durable_queue/store/broker.py", "settle_and_claim", "the rest of the transaction that settles and claims"),
    ("durable_queue/store/broker.py", "enqueue_all", "the broker around the INSERT"),
    ("durable_queue/intake/group_commit.py", "", "gathering a batch"),
    ("notifications/task_database.py", "", "which journal entries can go"),
    ("notifications/log/journal.py", "", "the journal"),
    ("notifications/log/known_writes.py", "", "the journal"),
    ("notifications/log/locked_file.py", "", "the journal"),
    ("notifications/log/records.py", "", "the journal"),
    ("notifications/log/log_file.py", "", "the log file"),
    ("notifications/log/trimming.py", "", "the log file"),
    ("notifications/log/identity.py", "", "which write it is"),
    ("notifications/tasks.py", "", "the task"),
    ("durable_queue/task/calls.py", "", "noting and packing the call"),
    ("durable_queue/intake/packaging.py", "", "noting and packing the call"),
    ("durable_queue/work/progress.py", "", "noting what is in hand"),
    ("durable_queue/work/outcomes.py", "", "reading and judging the task"),
    ("durable_queue/work/functions.py", "", "reading and judging the task"),
    ("django/dispatch/", "", "signals"),
    ("django/urls/", "", "finding the view"),
    ("django/http/", "", "request and answer"),
    ("notifications/http.py", "__init__", "request and answer"),
    ("notifications/views.py", "", "views and guards"),
    ("notifications/http.py", "", "views and guards"),
    ("durable_queue/work/holdings.py", "", "the loop"),
    ("durable_queue/work/loop.py", "", "the loop"),
    ("durable_queue/work/pace.py", "", "the loop"),
    ("durable_queue/work/runner.py", "", "the loop"),
    ("durable_queue/work/attempt.py", "", "around a task"),
    ("durable_queue/work/keeper.py", "", "around a task"),
    ("django/db/__init__.py", "close_old_connections", "around a task"),
    ("notifier_project/asgi.py", "", "request and answer"),
    ("django/core/handlers/asgi.py", "", "request and answer"),
    ("django/core/handlers/", "", "Django's handler"),
)


class Sampler:
    """Counts ticks by part."""

    def __init__(self) -> None:
        """Not running yet."""
        self.ticks: Counter[str] = Counter()

    def __enter__(self) -> "Sampler":
        """Run."""
        signal.signal(signal.SIGPROF, self._tick)
        self.used = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, TICK, TICK)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.used = time.process_time() - self.used

    def _tick(self, _number: int, frame: FrameType | None) -> None:
        while frame is not None:
            code = frame.f_code
            for path, function, part in PARTS:
                if path in code.co_filename and function in ("", code.co_name):
                    self.ticks[part] += 1
                    return
            frame = frame.f_back
        self.ticks["everything else"] += 1

    def report(self, count: int) -> str:
        """A table: microseconds of each part, for one of so many."""
        each, total = 1e6 * self.used / count, self.ticks.total()
        rows = [f"| {part} | {each * ticks / total:.1f} |" for part, ticks in self.ticks.most_common()]
        return "\n".join(["| | µs |", "|---|---|", *rows, f"| **in all** | **{each:.1f}** |"])


def post(count: int) -> None:
    """Call the application as the web server does; each request is a batch of its own."""
    asyncio.run(_post(count))


async def _post(count: int) -> None:
    from notifier_project.asgi import application  # noqa: PLC0415

    async def send(message: dict[str, Any]) -> None:
        statuses.add(message.get("status", 200))

    async def receive() -> None:
        """Never called."""

    async def once(number: int) -> None:
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": f"/send-notification/{number}@example.com",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1:8000")],
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 8000),
        }
        await application(scope, receive, send)

    statuses: set[int] = set()
    for number in range(500):
        await once(number)
    with Sampler() as sampler:
        for number in range(count):
            await once(number)
    if statuses != {200}:
        raise SystemExit(f"Not all were answered with 200: {statuses}")
    print(sampler.report(count))


def task(count: int) -> None:
    """Queue, then let a worker process drain it, and tell before it is gone."""
    from jobs import enqueue  # noqa: PLC0415
    from line import LINE  # noqa: PLC0415

    from durable_queue.conf import cluster_conf  # noqa: PLC0415
    from durable_queue.work.birth import Birth  # noqa: PLC0415
    from durable_queue.work.progress import Progress  # noqa: PLC0415

    for number in range(count):
        enqueue(LINE.format(number))
    connections.close_all()
    cluster_conf.run_dir.mkdir(exist_ok=True, parents=True)
    name = uuid.uuid4().hex
    birth = Birth(
        name=name,
        queue=Conf.CLUSTER_NAME,
        supervisor=str(uuid.uuid4()),
        supervisor_pid=os.getpid(),
        supervisor_wakes=os.pipe()[1],
        restarts=0,
        threads=1,  # in the main thread, which the sampler's signals interrupt
        run_once=True,
    )
    child = multiprocessing.get_context("fork").Process(
        target=_work, args=(count, birth, Progress(cluster_conf.run_dir / f"{name}.progress"))
    )
    child.start()
    child.join()


def _work(count: int, *arguments: Any) -> None:
    from durable_queue.work import worker  # noqa: PLC0415

    def finish(code: int, leave: Callable[[int], NoReturn] = os._exit) -> NoReturn:
        sampler.__exit__()
        print(sampler.report(count), flush=True)
        leave(code)

    os._exit = finish  # what a worker's life ends with
    sampler = Sampler()
    with sampler:
        worker.main(*arguments)


if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    {"post": post, "task": task}[sys.argv[1]](int(sys.argv[2]))
