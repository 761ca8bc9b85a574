"""Any sequence of attempts, kills, retries, resubmissions, rotations, moves, trims and restores, held against a simple model.

Attempts take other branches, orders and texts each time, with keys and without, from threads and forked children. A write
that was killed has happened or not: the model goes on with both possibilities, until an attempt gets through.
LOG_SCENES says how many scenes are tried; `scripts/scenes` tries many.
"""

import contextvars
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from durable_queue.task import running
from durable_queue.task.running import RunningTask
from notifications.log.identity import made_at
from notifications.log.journal import TRIM_FROM
from notifications.log.log_file import LogFile
from notifications.log.protocols import Outcome
from notifications.tasks import identify
from tests.support import selection
from tests.support.log_scenes import Tasks
from tests.support.log_writer import completes, kill, strike_at_line, strike_in_write

pytestmark = selection.once

HOUR = 3_600_000  # ms
PLACES = ("task", "thread", "bare thread", "child")


@dataclass(frozen=True)
class Step:
    """One write of an attempt."""

    text: bytes
    replaces: bool = False
    key: str | None = None
    call: int = 0
    place: str = "task"  # who makes it

    @property
    def is_fresh(self) -> bool:
        """Whether it is a new write each time: nobody shares the counts of an attempt, but who carries its context."""
        return self.key is None and self.place in ("bare thread", "child")


STEPS = st.lists(
    st.builds(
        Step,
        text=st.sampled_from([b"sent\n", b"sent\n", b"failed\n", b"done\n", b"no newline"]),
        replaces=st.sampled_from([False, False, True]),
        key=st.sampled_from([None, None, "a", "b"]),
        call=st.integers(0, 1),
        place=st.sampled_from(("task", *PLACES)),
    ),
    min_size=1,
    max_size=4,
)

Write = tuple[object, ...]


@dataclass
class Task:
    """A task, and the first attempt's steps, which later ones may follow again."""

    id: str
    steps: list[Step]
    name: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.name = bytes.fromhex(self.id)


@dataclass(frozen=True)
class World:
    """What may be the case: the log's bytes, what it was rotated to, which writes have happened, and the newest writer."""

    log: bytes = b""
    archives: tuple[bytes, ...] = ()
    done: frozenset[Write] = frozenset()
    newest: bytes = b""

    def after(self, task: Task, step: Step, write: Write, now: int) -> "World":
        """What is the case once a step was made."""
        if write in self.done:
            return self
        newest = self.newest
        if step.replaces and task.name < newest:
            if made_at(newest) <= now:
                return self
            newest = b""  # the clock was set back
        log = step.text if step.replaces else self.log + step.text
        done = self.done if step.is_fresh else self.done | {write}
        return replace(self, log=log, done=done, newest=max(newest, task.name))


def writes_of(task: Task, steps: list[Step]) -> list[Write]:
    """What the promise says that these writes are: by key, or by call, kind, text and the how-many-th of it."""
    counts: Counter[Write] = Counter()
    found: list[Write] = []
    for step in steps:
        write: Write = (task.id, step.key) if step.key else (task.id, step.call, step.replaces, step.text)
        if step.key is None and not step.is_fresh:
            counts[write] += 1
            write = (*write, counts[write])
        found.append(write)
    return found


class LogMachine(RuleBasedStateMachine):
    """A log in a folder, and all that could be the case with it."""

    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")  # noqa: S108
        self.outer = tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None)
        self.folder = Path(self.outer.name) / "0"
        self.folder.mkdir()
        self.tasks: list[Task] = []
        self.succeeded: set[str] = set()
        self.gone: set[str] = set()  # restored from before a trim: at least once, as documented
        self.worlds = {World()}
        self.foreign = 0
        self.clock = 1_000_000
        self.torn = False  # a piece of a line may stand at the end, until somebody takes the lock
        self.cut = False  # the log was emptied since a kill
        self.stray = False  # a temporary file may be left, until the next replacement
        self.database = Tasks(lambda name: name.hex() in self.succeeded | self.gone)
        self.copy: tuple[set[str], int, int] | None = None  # of the database: what had ended, its trims, all tasks
        self.noted_too_much = False  # whether a killed process may have noted a trim that it did not make

    @property
    def log(self) -> Path:
        """The log's path today."""
        return self.folder / "log.txt"

    @initialize(durable=st.booleans())
    def install(self, durable: bool) -> None:
        self.durable = durable
        self.writer = self.new_writer()

    def new_writer(self) -> LogFile:
        journal = self.folder / "var" / "journal" / "log"
        return LogFile(self.log, journal_path=journal, durable=self.durable, database=self.database)

    def teardown(self) -> None:
        with self.outer:
            for task in self.pending:
                self.get_through(task, task.steps, self.new_writer())

    # What clients and workers do.

    @rule(steps=STEPS)
    def accept(self, steps: list[Step]) -> None:
        self.clock += 1
        self.tasks.append(Task(f"{self.clock:012x}7{len(self.tasks):03x}{0:016x}", steps))

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), fresh=st.booleans())
    def fail(self, data: st.DataObject, fresh: bool) -> None:
        """An attempt that makes its writes and fails: a retry or a resubmission follows, maybe."""
        task, steps = self.draw(data)
        self.get_through(task, steps, self.new_writer() if fresh else self.writer)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), line=st.integers(1, 150))
    def be_killed_at_a_line(self, data: st.DataObject, line: int) -> None:
        self.run_and_kill(*self.draw(data), strike_at_line(line, kill))

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), number=st.integers(1, 6), length=st.integers(0, 100))
    def be_killed_in_a_write(self, data: st.DataObject, number: int, length: int) -> None:
        if self.run_and_kill(*self.draw(data), strike_in_write(number, length, kill)):
            self.torn = self.stray = True

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        """A task that has succeeded never comes back, but by a restored database; what it wrote may be forgotten."""
        task, steps = self.draw(data)
        self.get_through(task, steps, self.writer)
        self.succeeded.add(task.id)

    @rule()
    def overgrow(self) -> None:
        """So much is written that the journal is trimmed."""
        self.accept_now([Step(b"x" * TRIM_FROM + b"\n")])

    def accept_now(self, steps: list[Step]) -> None:
        self.clock += 1
        task = Task(f"{self.clock:012x}7{len(self.tasks):03x}{0:016x}", steps)
        self.tasks.append(task)
        self.get_through(task, steps, self.writer)
        self.succeeded.add(task.id)

    # What others do.

    @rule(step=st.sampled_from([-HOUR, -5, HOUR]))
    def set_the_clock(self, step: int) -> None:
        self.clock = max(1, self.clock + step)

    @rule()
    def let_the_clock_run_ahead(self) -> None:
        self.clock = time.time_ns() // 1_000_000 + HOUR

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

    @rule()
    def move_the_folder(self) -> None:
        self.writer.close()
        self.folder = self.folder.rename(self.folder.with_name(str(int(self.folder.name) + 1)))
        self.writer = self.new_writer()

    @rule()
    def copy_the_database(self) -> None:
        self.copy = set(self.succeeded), self.database.trims, len(self.tasks)

    @precondition(lambda self: self.copy)
    @rule()
    def restore_the_database(self) -> None:
        """Tasks that have ended since come back, those that were queued since are gone."""
        assert self.copy
        succeeded, trims, count = self.copy
        came_back = {task.id for task in self.tasks[:count]} & self.succeeded - succeeded
        self.succeeded -= came_back
        self.gone |= {task.id for task in self.tasks[count:]}
        is_older, self.database.trims = trims < self.database.trims, trims
        writer = self.new_writer()
        writer.open()
        is_said = bool(self.worlds and writer.forgotten_trim())
        # A trim that was noted, and whose process was killed before it, is none that the journal knows of.
        assert is_said == is_older or (is_older and self.noted_too_much)
        if is_older:
            self.gone |= came_back

    # The comparison.

    @property
    def pending(self) -> list[Task]:
        """Those that may be run (again)."""
        return [task for task in self.tasks if task.id not in self.succeeded | self.gone]

    def draw(self, data: st.DataObject) -> tuple[Task, list[Step]]:
        """A task, and what its next attempt does: the same as the first, or else a branch of its own."""
        task = data.draw(st.sampled_from(self.pending))
        return task, data.draw(st.one_of(st.just(task.steps), st.permutations(task.steps), STEPS))

    def next_archive(self) -> Path:
        """The name that the log is rotated to."""
        return self.log.with_name(f"log.txt.{len(self.archives()):03}")

    def archives(self) -> tuple[bytes, ...]:
        """The bytes of what the log was rotated to."""
        return tuple(path.read_bytes() for path in sorted(self.folder.glob("log.txt.*")))

    def attempt(self, task: Task, steps: list[Step], writer: LogFile) -> None:
        """Write as a worker does."""
        attempt = RunningTask(task.id)
        running.begin(attempt)
        try:
            for step in steps:
                attempt.begin_call(step.call, "", None)
                make(step, attempt, writer)
        finally:
            running.end(attempt)

    def get_through(self, task: Task, steps: list[Step], writer: LogFile) -> None:
        """Run an attempt to its end: then nothing is in doubt, and the bytes tell which of the worlds is the case."""
        self.attempt(task, steps, writer)
        self.worlds = self.after(task, steps)[-1]
        log = self.log.read_bytes() if self.log.exists() else b""
        found = {world for world in self.worlds if (world.log, world.archives) == (log, self.archives())}
        assert found, f"{log[:500]!r} after {[text[:500] for text in self.archives()]}"
        self.worlds, self.torn, self.cut = found, False, False
        assert self.stray or not list(self.folder.glob(".*.notifier")), "a stray temporary file"

    def after(self, task: Task, steps: list[Step]) -> list[set[World]]:
        """What may be the case before an attempt's first step, after it, after the second …"""
        now = time.time_ns() // 1_000_000
        found = [self.worlds]
        for step, write in zip(steps, writes_of(task, steps), strict=True):
            found.append({world.after(task, step, write, now) for world in found[-1]})
        return found

    def run_and_kill(self, task: Task, steps: list[Step], prepare: Callable[[], None]) -> bool:
        """Run an attempt in a process that is killed on the way, or gets through; return whether it was killed."""
        noted = self.database.trims
        if completes(lambda: self.attempt(task, steps, self.new_writer()), prepare=prepare):
            self.worlds = self.after(task, steps)[-1]
            self.get_through(task, [step for step in steps if not step.is_fresh], self.writer)
            return False
        self.worlds = set().union(*self.after(task, steps))
        self.noted_too_much |= self.database.trims > noted
        return True


def make(step: Step, attempt: RunningTask, writer: LogFile) -> None:
    """Make one write, from where it is made."""
    # hypothesis runs in a context of its own, and a bare thread has none: who has started it is told here.
    write = contextvars.copy_context().run

    def run() -> Outcome:
        kind = "replace" if step.replaces else "append"
        identity = identify(attempt, kind, step.text, step.key)
        return getattr(writer, kind)(step.text, identity=identity, attempt=attempt)  # type: ignore[no-any-return]

    if step.place == "task":
        run()
    elif step.place == "child":
        child = os.fork()
        if not child:
            run()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            kill()
    else:
        target = (lambda: write(run)) if step.place == "thread" else run
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()


TestLogModel = LogMachine.TestCase
TestLogModel.settings = settings(
    max_examples=int(os.environ.get("LOG_SCENES", settings().max_examples)),
    stateful_step_count=15,
    deadline=None,
    derandomize="LOG_SCENES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
