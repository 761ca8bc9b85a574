"""A process that starts others and keeps them alive: the cluster's supervisor, and the service's parent.

Its signal handlers note a wish, and wake its loop through a pipe; so does the death of a child. Django is not needed here.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

from durable_queue.work import kernel

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
QUICK = 1.0  # a child that lived shorter (seconds) died quickly,
BURST = 20  # and after so many quick deaths within SPAN seconds
SPAN = 10.0
CALM = 1.0  # each further start waits so long (seconds)
START_PAUSE = (0.1, 5.0)  # first and longest pause (seconds) when the system lets no process be started
SAID_AGAIN = 60.0  # seconds between two lines that say so
LOOK_FOR_ORPHANS = 5.0  # seconds after the death of a child
END_WAIT = 1.0  # seconds that killed processes have to be gone

Started = TypeVar("Started")


class Parent:
    """Signals, starts and orphans."""

    quit_code = 1  # the exit code after a second signal
    same_wish = 0.0  # seconds in which another signal is the same wish, from another sender

    def __init__(self, say: Callable[[str], object]) -> None:
        """`say`: says a line to the operator."""
        self.stop_wishes = 0
        self.hangups = 0
        self._wished = 0.0  # when (monotonic) the last wish to stop came
        self.wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # wakes the loop
        self._say = say
        self._inherited: set[int] = set()  # children that it had from its beginning
        self._look_for_orphans_until = 0.0
        self._quick_deaths: deque[float] = deque()
        self._next_start = 0.0
        self._start_pause = 0.0  # 0: the last start succeeded
        self._said = 0.0

    def listen(self) -> None:
        """Handle signals, and adopt the orphans of children."""
        kernel.adopt_orphans()
        self._inherited = kernel.children()  # of a shell that has executed this program
        signal.set_wakeup_fd(self.wakes[1], warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            now = time.monotonic()
            if self.stop_wishes and now - self._wished < self.same_wish:
                return
            self._wished = now
            self.stop_wishes += 1
            if self.stop_wishes > 1:
                self._quit()  # here, and not in the loop: that may wait for something
        elif number == signal.SIGHUP:
            self.hangups += 1

    def wake_bytes(self) -> bytes:
        """What has been written to the pipe since the last time."""
        with suppress(BlockingIOError):
            return os.read(self.wakes[0], 4096)
        return b""

    # Children.

    def own_pids(self) -> set[int]:
        """The pids of the children that it has started."""
        raise NotImplementedError

    def kill_all(self) -> None:
        """Kill the children."""
        raise NotImplementedError

    def try_start(self, start: Callable[[], Started]) -> Started | None:
        """Start a child, unless that had better wait: children die quickly one after the other, or the system refuses."""
        now = time.monotonic()
        if now < self._next_start or self._is_stormy(now):
            return None
        try:
            child = start()
        except OSError as error:  # no process, descriptor, memory or disk is left
            if now - self._said > SAID_AGAIN or not self._start_pause:
                self._say(f"No process can be started: {error}. It is tried again, every {START_PAUSE[1]:.0f} s at least")
                self._said = now
            self._start_pause = min(2 * self._start_pause or START_PAUSE[0], START_PAUSE[1])
            self._next_start = now + self._start_pause
            return None
        if self._start_pause:
            self._start_pause = 0.0
            self._say("Processes can be started again")
        return child

    def note_death(self, born: float) -> None:
        """A child has ended, which was started then (monotonic)."""
        self._look_for_orphans_until = time.monotonic() + LOOK_FOR_ORPHANS
        if time.monotonic() - born < QUICK:
            self._quick_deaths.append(time.monotonic())

    def _is_stormy(self, now: float) -> bool:
        """Whether children die so quickly, one after the other, that a new one had better wait."""
        while self._quick_deaths and now - self._quick_deaths[0] > SPAN:
            self._quick_deaths.popleft()
        return len(self._quick_deaths) > BURST and now - self._quick_deaths[-1] < CALM

    # Orphans: what a dead child, or a task of it, has left running.

    def kill_orphans_for_a_while(self) -> None:
        """Kill them, if a child has died lately."""
        if time.monotonic() < self._look_for_orphans_until:
            self._kill_orphans()

    def _kill_orphans(self) -> bool:
        with suppress(OSError):  # no descriptor is left to look with
            return kernel.kill_orphans(self._inherited | self.own_pids())
        return False

    def end_orphans(self) -> None:
        """The children have ended: nothing that they have started outlives them, nor what that has started."""
        deadline = time.monotonic() + END_WAIT
        while self._kill_orphans() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _quit(self) -> NoReturn:
        """The second signal: exit now."""
        deadline = time.monotonic() + END_WAIT
        self.kill_all()
        while not all(map(kernel.has_ended, self.own_pids())) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.end_orphans()
        os._exit(self.quit_code)
