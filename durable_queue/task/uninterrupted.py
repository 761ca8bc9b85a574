"""What a limit must not interrupt: it does so afterwards."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, Self, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic

from durable_queue.task.limits import of_thread

P = ParamSpec("P")
R = TypeVar("R")


class uninterrupted:
    """Within this, a limit that is over interrupts nothing; it does so at the end."""

    __slots__ = ("_limit",)

    def __enter__(self) -> Self:
        self._limit = of_thread()
        if self._limit:
            self._limit.shield()
        return self

    def __exit__(self, *_: object) -> None:
        if self._limit:
            self._limit.unshield()

    @property
    def is_over(self) -> bool:
        """Whether the limit is over, and will interrupt the thread at the end."""
        return self._limit is not None and self._limit.is_postponed


def prepare_worker() -> None:
    """In a new worker: a COMMIT or ROLLBACK, the opening of a connection, and a line for the log come to their end.

    Else Django's connection would not know in which transaction it is, one of a pool would be nobody's, and a lock of `logging`
    would stay taken for ever.
    """
    BaseDatabaseWrapper.connect = to_its_end(BaseDatabaseWrapper.connect)  # type: ignore[method-assign]
    BaseDatabaseWrapper.close = to_its_end(BaseDatabaseWrapper.close)  # type: ignore[method-assign]
    Atomic.__exit__ = to_its_end(Atomic.__exit__)  # type: ignore[method-assign]
    logging.Handler.handle = to_its_end(logging.Handler.handle)  # type: ignore[method-assign]


def to_its_end(func: Callable[P, R]) -> Callable[P, R]:
    """The function, uninterrupted."""

    @functools.wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with uninterrupted():
            return func(*args, **kwargs)

    return wrapper
