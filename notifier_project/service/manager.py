"""The service's process manager: supervisord (http://supervisord.org), with three gaps closed.

It hears signals at once instead of at its next look (up to 1 s later), a second one ends it without waiting,
and when it is killed, its programs stop too.
"""

import os
import signal
import sys

if __name__ == "__main__":
    # A stop may come from here on: nothing runs yet.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))

import ctypes
import subprocess
import time
from pathlib import Path

from supervisor import supervisord  # type: ignore[import-untyped]
from supervisor.medusa import asyncore_25 as asyncore  # type: ignore[import-untyped]
from supervisor.options import ServerOptions  # type: ignore[import-untyped]

PR_SET_PDEATHSIG = 1  # prctl(2)
RESTART_PAUSE_SECONDS = 1.0  # a program that dies again sooner waits for the pace of supervisord


def manage(configuration: Path) -> None:
    """Run the programs of a configuration until SIGTERM, SIGINT or SIGHUP, then return."""
    make_output_reopenable()
    manager = os.getpid()
    os.register_at_fork(after_in_child=lambda: prepare_program(manager))
    signals = Signals()
    asyncore.socket_map[signals.descriptor] = signals
    options = ServerOptions()
    user = ["--user", "root"] if os.getuid() == 0 else []  # without it, supervisord warns of root
    options.realize(["--configuration", str(configuration), *user], doc=supervisord.__doc__)
    options.first, options.test = True, False
    # Not supervisord.main, which starts all over after SIGHUP: when the terminal is closed, the service ends.
    supervisord.go(options)


class Signals:
    """What supervisord's loop waits on besides its programs' output (asyncore's interface): a byte for each signal."""

    def __init__(self) -> None:
        self.descriptor, self._wakeup = os.pipe()
        for end in (self.descriptor, self._wakeup):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._restarted = 0.0
        self._look_again()  # the first look comes at once
        self.stop_wishes = 0

    def readable(self) -> bool:
        """Always waited on."""
        return True

    def writable(self) -> bool:
        """Never written to."""
        return False

    def handle_read_event(self) -> None:
        """Let the loop go round, once for each signal, since it takes one at a time."""
        number = os.read(self.descriptor, 1)[0]
        if number == signal.SIGCHLD and time.monotonic() - self._restarted > RESTART_PAUSE_SECONDS:
            self._restarted = time.monotonic()
            self._look_again()  # this time round the dead program is reaped, the next time started again
        self.stop_wishes += number in (signal.SIGTERM, signal.SIGINT)
        if self.stop_wishes > 1:
            raise asyncore.ExitNow  # `prepare_program` has its programs hear of it, and exit without waiting too

    def _look_again(self) -> None:
        os.write(self._wakeup, b"\0")


def make_output_reopenable() -> None:
    """Pass output through `cat` where /dev/stdout can't be opened: a socket, as under systemd; another user's terminal."""
    try:
        with open("/dev/stdout", "ab"):
            pass
    except OSError:
        cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True)  # noqa: S607 - whichever it is
        assert cat.stdin is not None  # noqa: S101
        for output in (sys.stdout, sys.stderr):
            os.dup2(cat.stdin.fileno(), output.fileno())


def prepare_program(manager: int) -> None:
    """In a program's process, before it begins: let SIGTERM end it, also when it comes because the manager is dead (Linux)."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the manager's own handler would only note it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != manager:
            os._exit(1)


if __name__ == "__main__":
    # The data folder's lock: the programs don't inherit it, so that it never outlives this process.
    os.set_inheritable(int(os.environ.pop("LOCK")), False)
    manage(Path(sys.argv[1]))
