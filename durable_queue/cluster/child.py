"""A child process of the supervisor."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from durable_queue.cluster.parent import SIGNALS
from durable_queue.work.progress import Progress, Verdict


class Child:
    """A process that the supervisor answers for."""

    count = 0

    def __init__(self, main: Callable[[], None], progress: Progress | None = None, *, is_alone: bool = False) -> None:
        """Fork; the child holds its signals back until it has set its own handlers, and runs `main`. Raises OSError."""
        self.progress = progress
        self.is_alone = is_alone
        self.born = time.monotonic()
        self.told_to_stop = False
        self.exitcode: int | None = None  # once it has been reaped; negative: the number of the signal that ended it
        Child.count += 1
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError, OSError):  # closed, or nothing can be written
                stream.flush()  # else both processes would write what is in the buffer
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            # Not multiprocessing.Process, which loses four descriptors each time that the system refuses a fork.
            self.pid = os.fork()
            if not self.pid:
                _live(main, f"Process-{Child.count}")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    @property
    def is_dead(self) -> bool:
        """Whether it has ended; reaps it."""
        if self.exitcode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exitcode = os.waitstatus_to_exitcode(status)
        return self.exitcode is not None

    def join(self, seconds: float) -> None:
        """Wait until it is dead, for so long at most."""
        deadline = time.monotonic() + seconds
        while not self.is_dead and time.monotonic() < deadline:
            time.sleep(0.01)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.exitcode is None:
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


def _live(main: Callable[[], None], name: str) -> NoReturn:
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        multiprocessing.current_process().name = name  # which django-q2's signals and messages give
        main()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
