"""A child process of the supervisor."""

import os
import signal
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess

from durable_queue.work.progress import Progress, Verdict

# What the supervisor handles; a child holds them back until it has set handlers of its own.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Child:
    """A process that the supervisor answers for."""

    def __init__(self, process: BaseProcess, progress: Progress | None = None, *, is_alone: bool = False) -> None:
        """Start the process, its signals held back until it has set its own handlers."""
        self.process = process
        self.progress = progress
        self.is_alone = is_alone
        self.born = time.monotonic()
        self.told_to_stop = False
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.process.pid is not None  # noqa: S101
        return self.process.pid

    @property
    def is_dead(self) -> bool:
        """Whether it has ended; reaps it."""
        return self.process.exitcode is not None

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def stop(self) -> None:
        """Tell it to stop."""
        if self.progress:
            self.progress.tell_to_stop()
        self.send_signal(signal.SIGTERM)

    def kill(self, verdict: Verdict = Verdict.NONE) -> None:
        """Kill it, stopped or not."""
        if self.progress:
            self.progress.note_verdict(verdict)
        self.send_signal(signal.SIGKILL)
