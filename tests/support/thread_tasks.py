"""Tasks for workers that run many at once: good ones that wait, and poison."""

import asyncio
import os
import resource
import signal
import socket
import sys
import time
from typing import NoReturn

from asgiref.sync import sync_to_async

from notifications.tasks import write_log


def write_line(text: str, seconds: float) -> None:
    """Take a while, then append a line, which other tasks append too."""
    time.sleep(seconds)
    write_log(f"{text}\n")


def abort(seconds: float) -> None:
    """After a while, end the process as a fault in C does."""
    time.sleep(seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no file of it
    os.abort()


def end_after(seconds: float) -> None:
    """End after so many seconds, to a fraction of a millisecond. At the end, it hears an interruption at once."""
    until = time.monotonic() + seconds
    time.sleep(max(0.0, seconds - 0.003))
    while time.monotonic() < until:
        time.sleep(0.0002)


def sleep_for_ever() -> None:
    """Sleep in one call, for longer than anybody waits."""
    time.sleep(10_000)


def hear_nothing() -> None:
    """Wait for what nobody sends."""
    here, there = socket.socketpair()
    here.recv(1)
    there.close()


class KillsWhenStored:
    """A result that can be pickled, but not twice: the first time, the worker only tries whether it can be."""

    def __init__(self) -> None:
        self.was_pickled = False

    def __reduce__(self) -> tuple[type, tuple[()]]:
        if self.was_pickled:
            os.kill(os.getpid(), signal.SIGKILL)
        self.was_pickled = True
        return KillsWhenStored, ()


def die_afterwards() -> KillsWhenStored:
    """Return, and have the process die before that is settled."""
    time.sleep(0.3)  # in a thread that leads no more
    return KillsWhenStored()


class ExitsWhenPickled:
    """A result that ends whoever stores it."""

    def __reduce__(self) -> NoReturn:
        sys.exit(3)


def return_exiting() -> ExitsWhenPickled:
    """Return such a result."""
    return ExitsWhenPickled()


async def cancel_itself() -> None:
    """Be cancelled in the moment of its end."""
    await sync_to_async(time.sleep)(0.01)
    task = asyncio.current_task()
    assert task
    task.cancel()
