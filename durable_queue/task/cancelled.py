"""A running task that a user has asked to cancel: how it learns of that, and how it says that it heeds it."""

from collections.abc import Callable


class Cancelled(Exception):
    """Raise this in a task that a user has asked to cancel (`current_task.get().is_cancelled`): then it ends cancelled.

    It is not tried again, and its chain does not go on. Where nobody has asked, it is a failure like any other.
    """


class Cancellable:
    """What a user may ask to cancel."""

    request = ""  # of a user: who, and why
    on_request: Callable[[], None] | None = None  # called, in another thread, when it comes

    @property
    def is_cancelled(self) -> bool:
        """Whether a user has asked to cancel the task: raise `Cancelled` then, or end as it would have.

        It is known within a second of the request, once the task has run for half a second. Any thread of the task's process
        that has this object may ask; in forked children it stays as it was at the fork.
        """
        return bool(self.request)

    def ask_to_cancel(self, request: str) -> None:
        """A user has asked to cancel it. `request`: who, and why."""
        self.request = request
        if on_request := self.on_request:
            on_request()
