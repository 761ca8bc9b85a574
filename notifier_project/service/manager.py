"""The service's process manager: supervisord (http://supervisord.org) with four changes.

It handles a signal at once, not up to 1 s later. A second SIGTERM or SIGINT ends it without waiting. When it is killed,
its programs stop too. What tasks have left running is killed when the cluster that ran them is.
"""

import os
import signal
import sys

if __name__ == "__main__":
    # The service may be stopped from here on; no program runs yet.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))

import ctypes
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
from supervisor import supervisord  # type: ignore[import-untyped]
from supervisor.medusa import asyncore_25 as asyncore  # type: ignore[import-untyped]
from supervisor.options import ServerOptions  # type: ignore[import-untyped]

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
LOOK_FOR_ORPHANS_SECONDS = 5.0  # after the death of a program
RESTART_PAUSE_SECONDS = 1.0  # a program that dies again sooner is restarted at supervisord's own pace


def manage(configuration: Path) -> None:
    """Run the programs of a configuration until SIGTERM, SIGINT or SIGHUP, then return."""
    inherited = [child.pid for child in psutil.Process().children()]  # of a shell that has executed this program
    own = inherited + make_output_reopenable()
    manager = os.getpid()
    os.register_at_fork(after_in_child=lambda: prepare_program(manager))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a killed cluster's tasks leave running becomes a child
    options = ServerOptions()
    signals = Signals(lambda: kill_orphans({*options.pidhistory, *own}))
    asyncore.socket_map[signals.descriptor] = signals
    user = ["--user", "root"] if os.getuid() == 0 else []  # otherwise supervisord warns that it runs as root
    options.realize(["--configuration", str(configuration), *user], doc=supervisord.__doc__)
    options.first, options.test = True, False
    # Not supervisord.main, which starts again after SIGHUP: when the terminal is closed, the service must end.
    supervisord.go(options)


class Signals:
    """A pipe that gets a byte for each signal. supervisord's loop waits on it, by asyncore's interface."""

    def __init__(self, kill_orphans: Callable[[], object]) -> None:
        """`kill_orphans`: called in each round of the loop for a while after the death of a program."""
        self._kill_orphans = kill_orphans
        self._look_for_orphans_until = 0.0
        self.descriptor, self._wakeup = os.pipe()
        for end in (self.descriptor, self._wakeup):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._restarted = 0.0
        self._look_again()  # for the first round of the loop
        self.stop_wishes = 0

    def readable(self) -> bool:
        """True: the loop waits for bytes to read."""
        if time.monotonic() < self._look_for_orphans_until:
            self._kill_orphans()
        return True

    def writable(self) -> bool:
        """False: the loop never writes to it."""
        return False

    def handle_read_event(self) -> None:
        """Read one byte, so that the loop makes one round for each signal: it handles one signal in a round."""
        number = os.read(self.descriptor, 1)[0]
        if number == signal.SIGCHLD:
            self._look_for_orphans_until = time.monotonic() + LOOK_FOR_ORPHANS_SECONDS
        if number == signal.SIGCHLD and time.monotonic() - self._restarted > RESTART_PAUSE_SECONDS:
            self._restarted = time.monotonic()
            self._look_again()  # this round reaps the dead program, the next one starts it again
        self.stop_wishes += number in (signal.SIGTERM, signal.SIGINT)
        if self.stop_wishes > 1:
            raise asyncore.ExitNow  # by `prepare_program`, the programs get SIGTERM when the manager exits

    def _look_again(self) -> None:
        os.write(self._wakeup, b"\0")


def kill_orphans(own: set[int]) -> None:
    """Kill the children that this process has not started. supervisord reaps them."""
    for child in psutil.Process().children():
        if child.pid not in own:
            with suppress(psutil.NoSuchProcess):
                child.kill()


def make_output_reopenable() -> list[int]:
    """Pipe the output through `cat` when /dev/stdout can't be opened: a socket (systemd), or another user's terminal.

    Returns the pids of the processes that this has started.
    """
    try:
        with open("/dev/stdout", "ab"):
            pass
    except OSError:
        cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True)  # noqa: S607 - any cat will do
        assert cat.stdin is not None  # noqa: S101
        for output in (sys.stdout, sys.stderr):
            os.dup2(cat.stdin.fileno(), output.fileno())
        return [cat.pid]
    return []


def prepare_program(manager: int) -> None:
    """In a program's new process: let SIGTERM end it. On Linux, the kernel also sends SIGTERM when the manager dies."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the inherited handler would only note the signal
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != manager:
            os._exit(1)


if __name__ == "__main__":
    # The programs don't inherit the data folder's lock, so that it never outlives this process.
    os.set_inheritable(int(os.environ.pop("LOCK")), False)
    manage(Path(sys.argv[1]))
