"""Any sequence of writes, kills, retries, resubmissions, rotations and foreign appends, held against a simple model.

A write that was killed has happened or not: the model goes on with both possibilities, until a writer gets through.
"""

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from notifications.journal import TRIM_FROM
from notifications.logfile import LogFile
from tests.log_scenes import key
from tests.log_writer import completes, kill, strike_at_line, strike_in_write

TEXTS = st.sampled_from([b"message to alice\n", b"message to bob\n", b"no newline"])


@dataclass(frozen=True)
class Task:
    """One write, by its place in the order of queueing."""

    number: int
    text: bytes
    replaces: bool


@dataclass(frozen=True)
class World:
    """What may be the case: the log's bytes, what it was rotated to, and the tasks whose write has happened."""

    log: bytes = b""
    archives: tuple[bytes, ...] = ()
    done: frozenset[int] = frozenset()

    def after(self, task: Task) -> "World":
        """What is the case once the task's write was run to its end."""
        if task.number in self.done or (task.replaces and task.number < max(self.done, default=0)):
            return self
        log = task.text if task.replaces else self.log + task.text
        return replace(self, log=log, done=self.done | {task.number})


class LogMachine(RuleBasedStateMachine):
    """A log in a folder, and all that could be the case with it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.log = Path(self.folder.name) / "log.txt"
        self.tasks: list[Task] = []
        self.succeeded: set[int] = set()
        self.worlds = {World()}
        self.foreign = 0
        self.torn = False  # a piece of a line may stand at the end, until somebody takes the lock
        self.cut = False  # the log was emptied since a kill

    @initialize(durable=st.booleans())
    def install(self, durable: bool) -> None:
        self.durable = durable
        self.writer = self.new_writer()

    def new_writer(self) -> LogFile:
        def finished(ids: object) -> set[bytes]:
            return {key(number)[:16] for number in self.succeeded}

        return LogFile(self.log, journal_path=self.log.with_name("journal"), durable=self.durable, finished=finished)

    def teardown(self) -> None:
        with self.folder:
            for task in self.pending:
                self.get_through(task, self.new_writer())
            appended = {task.number for task in self.tasks if not task.replaces}
            assert all(world.done >= appended for world in self.worlds)

    # What clients and workers do.

    @rule(text=TEXTS, replaces=st.booleans())
    def accept(self, text: bytes, replaces: bool) -> None:
        self.tasks.append(Task(len(self.tasks) + 1, text, replaces))

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), fresh=st.booleans())
    def run(self, data: st.DataObject, fresh: bool) -> None:
        """A first attempt, a retry, or a resubmission: it makes no difference."""
        self.get_through(data.draw(st.sampled_from(self.pending)), self.new_writer() if fresh else self.writer)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), line=st.integers(1, 120))
    def run_and_kill_at_a_line(self, data: st.DataObject, line: int) -> None:
        self.run_and_kill(data.draw(st.sampled_from(self.pending)), strike_at_line(line, kill))

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), number=st.integers(1, 5), length=st.integers(0, 60))
    def run_and_kill_in_a_write(self, data: st.DataObject, number: int, length: int) -> None:
        if self.run_and_kill(data.draw(st.sampled_from(self.pending)), strike_in_write(number, length, kill)):
            self.torn = True

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """A task that has succeeded never comes back, and its keys may be forgotten."""
        task = data.draw(st.sampled_from(self.pending))
        self.get_through(task, self.writer)
        self.succeeded.add(task.number)

    @rule()
    def overgrow(self) -> None:
        """So much is written that the journal is trimmed."""
        task = Task(len(self.tasks) + 1, b"x" * TRIM_FROM + b"\n", replaces=False)
        self.tasks.append(task)
        self.get_through(task, self.writer)
        self.succeeded.add(task.number)

    # What others do.

    @rule()
    def rotate(self) -> None:
        if self.log.exists():
            self.log.rename(self.next_archive())
            self.worlds = {replace(world, log=b"", archives=(*world.archives, world.log)) for world in self.worlds}

    @rule()
    def copy_and_truncate(self) -> None:
        if self.log.exists():
            self.next_archive().write_bytes(self.log.read_bytes())
            os.truncate(self.log, 0)
            self.worlds = {replace(world, log=b"", archives=(*world.archives, world.log)) for world in self.worlds}
            self.cut = True

    @precondition(lambda self: not self.torn and not self.cut)  # the double faults that docs/exactly-once.md names
    @rule()
    def append_foreign_text(self) -> None:
        self.foreign += 1
        text = b"line %d of another program\n" % self.foreign
        with self.log.open("ab") as log:
            log.write(text)
        self.worlds = {replace(world, log=world.log + text) for world in self.worlds}

    # The comparison.

    @property
    def pending(self) -> list[Task]:
        """Those that may be run (again)."""
        return [task for task in self.tasks if task.number not in self.succeeded]

    def next_archive(self) -> Path:
        """The name that the log is rotated to."""
        return self.log.with_name(f"log.txt.{len(self.archives()):03}")

    def archives(self) -> tuple[bytes, ...]:
        """The bytes of what the log was rotated to."""
        return tuple(path.read_bytes() for path in sorted(self.log.parent.glob("log.txt.*")))

    def put(self, task: Task, writer: LogFile) -> None:
        """Write as a worker does."""
        (writer.replace if task.replaces else writer.append)(task.text, key=key(task.number))

    def get_through(self, task: Task, writer: LogFile) -> None:
        """Run a write to its end: then nothing is in doubt, and the bytes tell which of the worlds is the case."""
        self.put(task, writer)
        self.worlds = {world.after(task) for world in self.worlds}
        log = self.log.read_bytes() if self.log.exists() else b""
        found = {world for world in self.worlds if (world.log, world.archives) == (log, self.archives())}
        assert found, f"{log[:500]!r} after {[text[:500] for text in self.archives()]}"
        self.worlds, self.torn, self.cut = found, False, False
        assert not list(self.log.parent.glob(".*")), "a stray temporary file"

    def run_and_kill(self, task: Task, prepare: object) -> bool:
        """Run a write in a process that is killed on the way, or gets through; return whether it was killed."""
        if completes(lambda: self.put(task, self.new_writer()), prepare=prepare):  # type: ignore[arg-type]
            self.get_through(task, self.writer)
            return False
        self.worlds |= {world.after(task) for world in self.worlds}
        return True


TestLogModel = LogMachine.TestCase
TestLogModel.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
