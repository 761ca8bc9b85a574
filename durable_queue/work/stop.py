"""The end of a worker: it is told to stop, or retires. Either way it claims nothing more, and ends once nothing is in hand."""

import logging
import os
import signal
from contextlib import suppress
from typing import NoReturn

from django_q.conf import logger

from durable_queue.task.pipes import WriteEnd
from durable_queue.work.progress import Progress

MORE_ALONE = b"a"  # to the supervisor: a task that runs alone waits for a worker
LOOK = b"l"  # to the supervisor: look at your workers


class Stop:
    """The wish to stop, and the end. SIGTERM notes the wish, and wakes the thread that leads."""

    def __init__(self, progress: Progress, supervisor: int) -> None:
        """Set the handler. `supervisor`: the descriptor of a pipe that wakes it."""
        self.noted = False
        self.was_told = False  # by SIGTERM
        self.is_over = False
        self._progress = progress
        self._supervisor = WriteEnd(supervisor)
        self.wakes, end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # readable when the leader is to look for what is new
        self._end = WriteEnd(end)
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, *_: object) -> None:
        self.noted = self.was_told = True
        self.wake()

    def hear_if_told(self) -> None:
        """Stop if the supervisor says so, whose signal a task may have set aside. For any thread."""
        if self._progress.is_told_to_stop and not self.was_told:
            self._hear()

    def wake(self) -> None:
        """Wake the thread that leads, if it waits."""
        with suppress(OSError):  # it is full, or a task has closed it
            self._end.write(b"!")

    def retire(self, reason: str) -> None:
        """Have this worker end, and its successor start now."""
        if not self.noted:
            logger.info("A worker (pid %d) retires: %s", os.getpid(), reason)
            self._progress.retire()
            self._tell(LOOK)
            self.noted = True
            self.wake()

    def abandon(self, worker: object) -> NoReturn:
        """End now: other workers have what this one has in hand."""
        logger.error("%s was taken for dead, and stops: its tasks run elsewhere", worker)
        logging.shutdown()
        os._exit(0)

    def end_if_closed(self) -> None:
        """End the process now if a task has closed descriptors that it doesn't own: the next write may go into a database."""
        if not self._end.is_ours:
            logger.error("A worker (pid %d) ends at once: a task has closed descriptors that it doesn't own", os.getpid())
            os._exit(1)

    def end(self) -> None:
        """Nothing is in hand any more: the worker is over."""
        self.is_over = True

    def tell_of_waiting_alone(self) -> None:
        """Tell the supervisor that a task that runs alone may wait for a worker."""
        self._tell(MORE_ALONE)

    def _tell(self, what: bytes) -> None:
        with suppress(OSError):  # it is gone, and so will this process be
            self._supervisor.write(what)
