"""Tasks, hooks and receivers that note how a worker runs them, for the tests of django-q2's promises."""

import asyncio
import json
import os
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from django.apps import AppConfig
from django.conf import settings

from durable_queue import retry


def notes_file() -> Path:
    """The file of the notes. The web processes and workers of one installation share it."""
    return Path(settings.DATA_DIR) / "notes"


def note(*words: Any) -> int:
    """Append one line of JSON to the notes; return this process's id."""
    with notes_file().open("a") as file:
        file.write(json.dumps([*words]) + "\n")
    return os.getpid()


def read_notes() -> list[Any]:
    """All notes so far, in their order."""
    path = notes_file()
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# Receivers.


class Listener(AppConfig):
    """Notes each of django-q2's signals, in the process that sends it."""

    name = "tests.support.promised_tasks"
    label = "promised_tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect the receivers, where a test asks for them."""
        if "TEST_SIGNALS" not in os.environ:
            return
        from django_q import signals  # noqa: PLC0415 - its module needs the models to be loaded

        for name in ("pre_execute", "post_execute_in_worker", "post_execute"):
            getattr(signals, name).connect(partial(_hang_if_asked, name), weak=False)
        for name in ("pre_enqueue", "pre_execute", "post_execute_in_worker", "post_execute", "post_spawn"):
            getattr(signals, name).connect(partial(_note_signal, name), weak=False)


def _hang_if_asked(name: str, sender: str, task: dict[str, Any], **_: object) -> None:
    while task["name"] == f"hangs in {name}":
        time.sleep(0.05)
    if task["name"] == f"blocks in {name}":
        here, there = socket.socketpair()
        here.recv(1)
        there.close()


def _note_signal(name: str, sender: str, **arguments: Any) -> None:
    task = arguments.get("task", {})
    func = arguments.get("func")
    note(
        name,
        {
            "sender": sender,
            "id": task.get("id"),
            "started": str(task.get("started")),
            "task_func": str(task.get("func")),
            "func": func.__name__ if func else None,
            "success": task.get("success"),
            "result": task.get("result"),
        },
    )


class Reporter:
    """An error reporter (https://django-q2.readthedocs.io/en/master/configure.html#error-reporter)."""

    def __init__(self, token: str) -> None:
        """`token`: the value in the setting."""
        self.token = token

    def report(self) -> None:
        """Note the exception that is being handled."""
        import sys  # noqa: PLC0415

        note("reported", self.token, repr(sys.exc_info()[1]))


# Hooks.


def hook(task: Any) -> None:
    """Note the task as the hook gets it, and as the history holds it then."""
    from django_q.models import Task  # noqa: PLC0415 - this module is an app's, and is imported before the models

    note("hook", type(task).__name__, task.id, task.success, task.result, Task.objects.filter(pk=task.pk).exists())


def failing_hook(task: Any) -> NoReturn:
    """Fail."""
    note("failing hook", task.id)
    raise ValueError("the hook failed")


# Tasks.


def add(*numbers: float) -> float:
    """Return the sum."""
    return sum(numbers)


def give_back(*args: Any, **kwargs: Any) -> Any:
    """Return the arguments."""
    return list(args), kwargs


def process_id() -> int:
    """Return the worker's process id."""
    return os.getpid()


def fail(text: str = "as always") -> NoReturn:
    """Note that it ran, and fail."""
    note("failed", text)
    raise ValueError(text)


@retry(attempts=2)
def fail_twice_at_most() -> NoReturn:
    """Note that it ran, and fail; its own policy allows two attempts."""
    note("failed by decorator")
    raise ValueError("as always")


def fail_until(attempts: int) -> int:
    """Fail, except in the attempt with this number."""
    note("attempt")
    made = len(read_notes())
    if made < attempts:
        raise ValueError(f"attempt {made}")
    return made


def fail_until_told() -> str:
    """Fail until a note says that the task may succeed."""
    if ["go"] not in read_notes():
        note("failed")
        raise ValueError("not yet")
    return "went"


def kill_first_worker() -> str:
    """Kill the worker of the first attempt."""
    if not read_notes():
        note("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def sleep(seconds: float) -> float:
    """Take that long."""
    time.sleep(seconds)
    return seconds


async def sleep_async(seconds: float) -> str:
    """Take that long, in a coroutine."""
    await asyncio.sleep(seconds)
    return "slept"


def grow(megabytes: int) -> int:
    """Use so much memory for a moment; return this process's id."""
    block = bytearray(megabytes * 1_000_000)
    for place in range(0, len(block), 4096):
        block[place] = 1
    return os.getpid()


def queue_another(*args: Any) -> str:
    """Enqueue `add` from within a task; return the new task's id."""
    from django_q.tasks import async_task  # noqa: PLC0415 - as in `hook`

    task_id: str = async_task("tests.support.promised_tasks.add", *args, task_name="the other")
    return task_id


def queue_another_and_roll_back() -> NoReturn:
    """Enqueue a task in a transaction, then roll it back by an error."""
    from django.db import transaction  # noqa: PLC0415 - as in `hook`

    with transaction.atomic():
        queue_another(1, 2)
        raise ValueError("rolled back")


def spoil(items: list[Any]) -> int:
    """Put a value that can't be stored into an argument."""
    items.append(lambda: None)
    return len(items)


def parent() -> int:
    """Start a process from within a task; return its exit code."""
    import multiprocessing  # noqa: PLC0415

    child = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,))
    child.start()
    child.join(10)
    return child.exitcode or 0
