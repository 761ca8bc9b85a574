"""Functions whose results, errors and modules are odd, for tests/test_stored.py."""

import time
from datetime import date, timedelta
from typing import Any, NoReturn

from durable_queue import retry

UNSPEAKABLE = "a zero \0 and half a character \ud800"
LIMIT = 3  # no function


class NeedsTwo(Exception):
    """An error that is made of two values, and remembers one: the classic of what can be pickled, and not be loaded."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)
        self.two = two


class Money(str):
    """Text that needs a currency."""

    __slots__ = ()

    def __new__(cls, text: str, _currency: str) -> "Money":
        """`_currency` has no default."""
        return super().__new__(cls, text)


class ExitsWhenLoaded:
    """It raises what no `except Exception` catches."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exit_with, (7,))


class SleepsWhenLoaded:
    """It takes long to load."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (time.sleep, (20,))


class Letter:
    """A value with much in it."""

    def __init__(self, text: str) -> None:
        """`text`: all that it has."""
        self.text = text


def exit_with(code: int) -> NoReturn:
    """End the process, or try to."""
    raise SystemExit(code)


ODD = {
    "error": lambda: NeedsTwo("one", "two"),
    "deep": lambda: {"found": [1, {"here": NeedsTwo("one", "two")}]},
    "text": lambda: Money("5", "EUR"),
    "exits": ExitsWhenLoaded,
    "sleeps": SleepsWhenLoaded,
}


def give(name: str) -> Any:
    """Return something odd."""
    return ODD[name]()


def give_half() -> str:
    """Return text that UTF-8 can't hold. Pickle can."""
    return UNSPEAKABLE


def days(count: int) -> list[date]:
    """Return many values that are no plain ones."""
    return [date(2026, 1, 1) + timedelta(days=number % 10_000) for number in range(count)]


def fail_unspeakably() -> NoReturn:
    """Fail with a text that no database stores."""
    raise ValueError(UNSPEAKABLE)


@retry(attempts=1)
def succeed_once() -> str:
    """Succeed; a failure would be the last."""
    return "done"
