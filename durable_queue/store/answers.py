"""Answers of the database that a process does not wait for any longer, and that may come all the same."""

from typing import Protocol

from django.db import OperationalError


class Pending(Protocol):
    """What was asked, and is not answered yet. Its connection is neither closed nor cancelled: the work may be done there."""

    def is_answered(self) -> bool:
        """Read what has come; whether that was all. Then it can be forgotten. Raises nothing."""


class NoAnswerError(OperationalError):
    """The database has not answered in time. It may do, or have done, what it was asked for."""

    def __init__(self, seconds: float, pending: Pending) -> None:
        super().__init__(f"no answer within {seconds:g} s; whether it was done is not known")
        self.pending = pending
