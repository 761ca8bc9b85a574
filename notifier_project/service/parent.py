"""The service's parent: it starts the web processes and the queue's cluster, keeps them alive, and prints what they print.

It does nothing that can wait for something, save for its own children's ends.
"""

import os
import signal
import sys

if __name__ == "__main__":
    # The service may be stopped from here on; no program runs yet.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))

import select
import subprocess
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from durable_queue.cluster.parent import Parent
from durable_queue.work import kernel
from notifier_project.service.output import Output, Source

LOOK = 1.0  # seconds between two looks at the programs, when nothing happens
SILENT = 10  # looks without a sign of life, after which a program that gives such signs is killed
BOOT = 60  # looks until the first sign of life
LAST_LINES = 1.0  # seconds that the end waits for the last lines to be written


@dataclass
class Program:
    """What the parent runs, again and again."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    passed: Sequence[int] = ()  # descriptors that it inherits
    end: signal.Signals = signal.SIGTERM  # what the kernel sends it when the parent is killed
    source: Source = field(default_factory=Source)
    life: tuple[int, int] | None = None  # a pipe to which it writes while it gets on
    process: subprocess.Popen[bytes] | None = None
    born: float = 0.0  # when (monotonic) it was started
    silent: int = 0  # looks without a sign of life

    def start(self) -> subprocess.Popen[bytes]:
        """Start it. Raises OSError."""
        parent, end = os.getpid(), self.end
        life = {"SIGNS_OF_LIFE": str(self.life[1])} if self.life else {}
        self.gives_sign()  # what is left of the one before
        self.born, self.silent = time.monotonic(), SILENT - BOOT
        return subprocess.Popen(  # noqa: S603 - its command is ours
            self.command,
            env=os.environ | dict(self.env) | life,
            stdin=subprocess.DEVNULL,
            stdout=self.source.end,
            stderr=subprocess.STDOUT,
            pass_fds=[*self.passed, *([self.life[1]] if self.life else [])],
            start_new_session=True,  # Ctrl-C in a terminal is the parent's to hear
            preexec_fn=lambda: kernel.die_with_parent(parent, end),  # noqa: PLW1509 - the parent has one thread
        )

    def gives_sign(self) -> bool:
        """Whether it has given a sign of life since the last time."""
        with suppress(BlockingIOError):
            return bool(self.life and os.read(self.life[0], 4096))
        return False

    def kill(self) -> None:
        """Kill it, and what is left of its session's first group."""
        with suppress(ProcessLookupError):
            if self.process:
                os.killpg(self.process.pid, signal.SIGKILL)


class ServiceParent(Parent):
    """The parent of these programs."""

    quit_code = 0

    def __init__(self, programs: Sequence[Program], *, stop_limit: float, ready: str = "") -> None:
        """`stop_limit`: seconds that programs have to stop. `ready`: what is printed at the first sign of life."""
        super().__init__(self.say)
        self._programs = programs
        self._stop_limit = stop_limit
        self._ready = ready
        self._output = Output(sys.stdout.fileno())
        own = Source()  # what Python itself prints, a warning for example, must not wait either
        self._sources = {source.descriptor: source for source in (own, *(program.source for program in programs))}
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(own.end, descriptor)
        self._stop_at = 0.0  # when (monotonic) what has not stopped yet is killed
        self._next_look = 0.0

    def say(self, line: str) -> None:
        """Print a line of the parent's own."""
        self._output.add(line.encode() + b"\n")

    def run(self) -> int:
        """Run the programs until SIGTERM, SIGINT or SIGHUP; return the exit code."""
        self.listen()
        while not (self._stop_at and not self._living):
            try:
                self._look()
                self._wait()
            except Exception:  # an error of ours must not be the end of the service
                self.say(traceback.format_exc())
                time.sleep(LOOK)
        self.end_orphans()
        self._print_last()
        return 0

    @property
    def _living(self) -> list[Program]:
        return [program for program in self._programs if program.process]

    def own_pids(self) -> set[int]:
        return {program.process.pid for program in self._living if program.process}

    def kill_all(self) -> None:
        for program in self._living:
            program.kill()

    # One look.

    def _look(self) -> None:
        self._reap()
        self.kill_orphans_for_a_while()
        if self.stop_wishes or self.hangups:
            self._stop()
            return
        for program in self._programs:
            if program.process is None:
                program.process = self.try_start(program.start)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK
            self._look_for_life()

    def _reap(self) -> None:
        for program in self._living:
            if program.process and (code := program.process.poll()) is not None:
                if not self._stop_at or code not in (0, -signal.SIGTERM):
                    self.say(f"{program.name} (pid {program.process.pid}) ended: exit code {code}")
                program.kill()
                program.process = None
                self.note_death(program.born)

    def _stop(self) -> None:
        if not self._stop_at:
            self.stop_wishes = 1  # after SIGHUP, too
            self.say("Notifier stops. A second signal ends it at once")
            self._stop_at = time.monotonic() + self._stop_limit
            for descriptor in {passed for program in self._programs for passed in program.passed}:
                os.close(descriptor)  # clients are refused from now on, instead of waiting for nobody
            for program in self._living:
                if program.process:
                    program.process.terminate()
        elif time.monotonic() > self._stop_at:
            self.kill_all()

    def _look_for_life(self) -> None:
        """Kill a program that has stopped giving signs of life. Counted in looks: none is made while the parent is stopped."""
        for program in self._living:
            if program.gives_sign():
                if self._ready:
                    self._output.add(self._ready.encode())
                    self._ready = ""
                program.silent = 0
            elif program.life:
                program.silent += 1
                if program.silent > SILENT:
                    self.say(f"{program.name} gave no sign of life for {SILENT * LOOK:.0f} s, and is killed")
                    program.kill()

    def _wait(self) -> None:
        until = self._stop_at or self._next_look
        pause = max(0.02, min(LOOK, until - time.monotonic()))
        readable = [self.wakes[0], *self._sources]
        if self._ready and not self._stop_at:  # it is printed at once, not at the next look
            readable += [program.life[0] for program in self._programs if program.life]
        found, _, _ = select.select(readable, [self._output.descriptor] if self._output.waits else [], [], pause)
        self.wake_bytes()
        for descriptor in found:
            if descriptor in self._sources:
                for line in self._sources[descriptor].read_lines():
                    self._output.add(line)
            elif descriptor != self.wakes[0]:
                self._next_look = 0.0
        self._output.flush()

    def _print_last(self) -> None:
        for source in self._sources.values():
            for line in source.read_last():
                self._output.add(line)
        deadline = time.monotonic() + LAST_LINES
        self._output.flush()
        while self._output.waits and time.monotonic() < deadline:
            select.select([], [self._output.descriptor], [], 0.1)
            self._output.flush()


def main() -> int:
    """Run the service's programs, as the variables say that serve.py has set."""
    os.set_inheritable(int(os.environ.pop("LOCK")), False)  # so that the data folder's lock never outlives this process
    listener, count = os.environ.pop("WEB_SOCKET"), int(os.environ["NOTIFIER_WEB_WORKERS"])
    ready, stop_limit = os.environ.pop("READY_MESSAGE"), float(os.environ.pop("STOP_LIMIT"))
    os.set_inheritable(int(listener), False)
    web = [sys.executable, "-m", "notifier_project.service.web"]
    programs = [
        Program(
            f"Web process {number}",
            web,
            {"WEB_SOCKET": listener},
            passed=[int(listener)],
            end=signal.SIGKILL,
            life=os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK),
        )
        for number in range(count)
    ]
    programs.append(Program("The queue", [sys.executable, "manage.py", "qcluster"]))
    return ServiceParent(programs, stop_limit=stop_limit, ready=ready).run()


if __name__ == "__main__":
    os._exit(main())
