"""Hooks, good ones that note the task that they get, and bad ones, for the tests of hooks."""

import os
import signal
import sys
import time
from typing import Any, NoReturn

from django_q.tasks import async_task

from tests.support.promised_tasks import note


def hook(task: Any) -> None:
    """Note the task."""
    note("hook", task.name, task.id, task.success, task.result, list(task.args), task.group)


class Shop:
    """A class with a hook."""

    @staticmethod
    def hook(task: Any) -> None:
        """Note the task."""
        hook(task)

    @classmethod
    def of_class(cls, task: Any) -> None:
        """Note the task."""
        hook(task)


def save_again(task: Any) -> None:
    """Note the task, and save it."""
    hook(task)
    task.save()


def leave(task: Any) -> NoReturn:
    """Note the task, and exit."""
    hook(task)
    sys.exit(3)


def hang(task: Any) -> NoReturn:
    """Note the task, and never return."""
    hook(task)
    while True:
        time.sleep(0.01)


def kill_worker(task: Any) -> None:
    """Note the task, and die."""
    hook(task)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def no_hook(task: Any) -> NoReturn:
    """Raise."""
    hook(task)
    raise ValueError("as always")


class Untrue:
    """No hook, nor anything that can be asked whether it is true."""

    def __bool__(self) -> NoReturn:
        raise ValueError("neither")


class Unshowable:
    """A hook that can't be shown."""

    def __call__(self, task: Any) -> None:
        """Note the task."""
        hook(task)

    def __str__(self) -> NoReturn:
        raise ValueError("no text")


def die(*_: Any) -> None:
    """Die as if the out-of-memory killer had struck."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def run_another(task: Any) -> None:
    """Run another task here and now, with a hook of its own."""
    async_task("tests.support.promised_tasks.add", 3, 4, task_name="inner", hook="tests.support.hook_tasks.hook", sync=True)
