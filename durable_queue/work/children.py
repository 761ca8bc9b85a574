"""The processes that tasks fork: what they must not inherit from a worker, and what to use instead of a fork."""

import os
import signal
import threading

from django_q.conf import logger

from durable_queue.task import running

DEFAULT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM)


def ignore(*_: object) -> None:
    """Hear a signal, and do nothing. A program that a task executes gets the default for it: it would inherit SIG_IGN."""


class Children:
    """Those of one worker."""

    def __init__(self, *, threads: int) -> None:
        """`threads`: how many tasks the worker runs at once."""
        self._worker = os.getpid()
        self._has_threads = threads > 1
        self._named: set[str] = set()
        self._thread = threading.local()
        os.register_at_fork(before=self._before, after_in_parent=self._after, after_in_child=self._forget_worker)

    def _before(self) -> None:
        # A signal to the child waits until the worker's handlers are gone, which would only note it.
        self._thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, DEFAULT)
        self._warn()

    def _after(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._thread.mask)

    def _forget_worker(self) -> None:
        """A worker's handlers only note a wish to stop: `Process.terminate()` would do nothing."""
        if os.getppid() != self._worker:  # a child of a child, which may have handlers of its own
            signal.pthread_sigmask(signal.SIG_SETMASK, self._thread.mask)
            return
        signal.set_wakeup_fd(-1)
        for number in DEFAULT:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._thread.mask - set(DEFAULT))

    def _warn(self) -> None:
        task = running.current_task.get()
        if not (self._has_threads and os.getpid() == self._worker and task) or task.path in self._named:
            return
        self._named.add(task.path)
        logger.warning(
            "%s forks a process next to %d threads: the child may wait for ever for a lock that one of them holds. Mark the "
            "function with @alone, or start its processes with multiprocessing.get_context('spawn')",
            task.path,
            threading.active_count() - 1,
        )
