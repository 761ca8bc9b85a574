"""Tasks that the cluster's tests queue: good ones that leave a mark, and poison."""

import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

from django.db import connection


def mark(number: int, seconds: float = 0.0) -> int:
    """Take a while, then note in a table that the task ran, and in which process."""
    if seconds:
        time.sleep(seconds)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO mark (number, pid) VALUES (%s, %s)", [number, os.getpid()])
    return number


def kill_own_process() -> None:
    """Die as if the out-of-memory killer had struck."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def exit_politely() -> NoReturn:
    """Raise SystemExit."""
    sys.exit(3)


def exit_rudely() -> NoReturn:
    """End the process without an exception."""
    os._exit(3)


def run_for_ever() -> NoReturn:
    """Never return."""
    while True:
        time.sleep(0.1)


def ignore_timeout() -> NoReturn:
    """Never return, and swallow each interruption."""
    while True:
        with suppress(BaseException):
            time.sleep(0.1)


def return_unpicklable() -> Any:
    """Return a value that can't be stored."""
    return lambda: None


class UnpicklableError(Exception):
    """An error that can't be stored."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("not this one")


def raise_unpicklable() -> NoReturn:
    """Raise an error that can't be stored."""
    raise UnpicklableError("unpicklable error")


class UnshowableError(Exception):
    """An error that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")


def raise_unshowable() -> NoReturn:
    """Raise an error that has no text."""
    raise UnshowableError


def fail_unspeakably() -> NoReturn:
    """Fail with a text that no database stores."""
    raise ValueError("a zero \0 and half a character \ud800")


def return_picky() -> Any:
    """Return a value that can be pickled once, and then never again."""
    return PickledOnce()


class PickledOnce:
    """A value that can be stored when that is tested, but not afterwards."""

    tries = 0

    def __reduce__(self) -> tuple[Any, ...]:
        self.tries += 1
        if self.tries > 1:
            raise TypeError("not twice")
        return (PickledOnce, ())


def nest_argument(argument: list[Any]) -> None:
    """Nest an argument so deeply that it can't be pickled any more."""
    for _ in range(100_000):
        argument.append([])
        argument = argument[0]


def return_much() -> str:
    """Return 10 MB."""
    return "x" * 10_000_000


def take_one(argument: int) -> int:
    """Take one argument, no more."""
    return argument


def fail() -> NoReturn:
    """Fail."""
    raise ValueError("as always")


class KillsWhenUnpickled:
    """An argument that kills the process which unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_kill_with_argument, ())


def _kill_with_argument() -> None:
    # Only in a worker: the test itself pickles, and looks at rows.
    if "qcluster" in " ".join(sys.argv):
        os.kill(os.getpid(), signal.SIGKILL)


class RaisesWhenUnpickled:
    """An argument that can't be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_raise_import_error, ())


def _raise_import_error() -> NoReturn:
    raise ImportError("a module that is gone")
