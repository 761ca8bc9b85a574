"""Errors as one line: durable_queue/task/errors.py."""

import traceback
from collections.abc import Callable
from typing import NoReturn

import pytest

from durable_queue.task.errors import LONGEST, one_line
from durable_queue.work.ending import describe
from tests.support import selection
from tests.support.cluster_tasks import raise_unshowable

pytestmark = selection.once


def divide() -> NoReturn:
    """Raise a built-in error."""
    raise ZeroDivisionError("division by zero")


def with_cause() -> NoReturn:
    """Raise one with a cause."""
    try:
        divide()
    except ZeroDivisionError as error:
        raise ValueError("2 + 2 is 4: no\nsecond line") from error


def with_traceback_in_it() -> NoReturn:
    """Raise one whose text holds a traceback."""
    try:
        divide()
    except ZeroDivisionError:
        raise RuntimeError(f"the child said\n{traceback.format_exc()}") from None


def without_text() -> NoReturn:
    """Raise one without a text."""
    raise KeyError


def group() -> NoReturn:
    """Raise a group."""
    errors = []
    for each in (divide, with_cause):
        try:
            each()
        except Exception as error:
            errors.append(error)
    raise ExceptionGroup("several", errors)


def path() -> NoReturn:
    """Raise one that names files and addresses."""
    raise OSError("can't open '/srv/my data/log.txt', /etc/x/y nor https://host/a/b?c=/d, 1/2/3")


def kept(fail: Callable[[], None]) -> str:
    """What a worker keeps of an error."""
    try:
        fail()
    except Exception as error:
        return describe(error)
    raise AssertionError("it has not failed")


LINES = {
    divide: "ZeroDivisionError: division by zero",
    with_cause: "ValueError: 2 + 2 is 4: no",
    without_text: "KeyError",
    group: "ExceptionGroup: several (2 sub-exceptions)",
    path: "OSError: can't open '…/log.txt', …/y nor https://host/a/b?c=/d, 1/2/3",
    raise_unshowable: "UnshowableError: <exception str() failed>",
}


@pytest.mark.parametrize(("fail", "line"), LINES.items(), ids=[fail.__name__ for fail in LINES])
def test_one_line__of_what_workers_keep(fail: Callable[[], None], line: str) -> None:
    assert one_line(kept(fail)) == line


TEXTS = {
    "": "",
    "The worker was killed while it ran.": "The worker was killed while it ran.",
    "two\nlines": "two",
    " : Traceback (most recent call last):\n": "",
    "cut off : Traceback (most recent call last):\n  File": "cut off",
    "a zero \0 and half \ud800": "a zero � and half ?",
    "x" * 10_000: "x" * (LONGEST - 1) + "…",
}


@pytest.mark.parametrize(("text", "line"), TEXTS.items(), ids=[ascii(text[:20]) for text in TEXTS])
def test_one_line__of_other_texts(text: str, line: str) -> None:
    assert one_line(text) == line


def test_one_line__of_a_text_that_holds_a_traceback() -> None:
    line = one_line(kept(with_traceback_in_it))
    assert "\n" not in line
    assert "File" not in line
