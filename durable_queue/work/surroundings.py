"""What a task may change around it. Afterwards it is as before, or, where that is everybody's, its worker retires.

Each thread has a working directory and a umask of its own, where the system allows it (unshare(2), CLONE_FS).
"""

import locale
import os
import signal
import socket
import sys
import warnings
from pathlib import Path

from durable_queue.work import kernel

FILTERS = "the filters of warnings"
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Surroundings:
    """A worker's, as they were when it began."""

    def __init__(self, *, threads: int) -> None:
        """`threads`: how many tasks may run at once."""
        # Threads that share them with others: what one task has changed is not put back while another runs.
        self._shares_directory = threads > 1 and not kernel.can_unshare_directory()
        self._is_apart = threads > 1 and not self._shares_directory
        self._directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._umask = _umask()
        self._handlers = {number: signal.getsignal(number) for number in HEARD}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._global, self._modules = self._look(), len(sys.modules)

    def join(self) -> None:
        """The calling thread runs tasks: give it a directory and a umask of its own."""
        if self._is_apart:
            kernel.unshare_directory()
            self.restore()  # it began with that of the thread that has started it

    def restore(self) -> None:
        """After a task, in its thread: the directory and the umask. Raises OSError if a task has closed the descriptor."""
        if not self._shares_directory:
            os.fchdir(self._directory)
            os.umask(self._umask)

    def restore_signals(self) -> None:
        """After a task in the main thread: the worker hears signals again as before."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def changes(self, *, is_idle: bool) -> list[str]:
        """What tasks have changed for the whole process since this was asked last. What a new module sets is not counted.

        `is_idle`: no task is in hand, which may have set filters of warnings for a moment (`warnings.catch_warnings`).
        """
        before, self._global = self._global, self._look()
        if not is_idle:
            self._global[FILTERS] = before[FILTERS]
        modules, self._modules = self._modules, len(sys.modules)
        if modules != self._modules:
            return []
        return [name for name, value in self._global.items() if before[name] != value]

    def _look(self) -> dict[str, object]:
        shared: dict[str, object] = {}
        if self._shares_directory:  # also one that is gone
            shared = {"the working directory": os.readlink("/proc/thread-self/cwd"), "the umask": _umask()}
        return shared | {
            "the environment": vars(os.environ)["_data"].copy(),  # a hundredth of the time that decoding it takes
            "the locale": locale.setlocale(locale.LC_ALL),
            FILTERS: len(warnings.filters),
            "the default timeout of sockets": socket.getdefaulttimeout(),
        }


def _umask() -> int:
    """The calling thread's umask; os.umask(2) could only tell it by changing it (proc_pid_status(5))."""
    status = Path("/proc/thread-self/status").read_text()
    return int(status.partition("Umask:")[2].split()[0], 8)
