"""Each write stands in the log once, whole, wherever its writer is stopped: every point is tried, none is sampled."""

import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from notifications.log import journal
from notifications.log.protocols import Outcome
from notifications.log.records import RECORD
from tests.support import selection
from tests.support.log_scenes import (
    EARLIER,
    EVENTS,
    FIRST,
    KEY,
    LATER,
    LINE,
    Event,
    Scene,
    Stage,
    Tasks,
    copytruncate,
    key,
    nothing,
    rotation,
    same_text,
)
from tests.support.log_writer import (
    Job,
    broken_disk,
    completes,
    end_of,
    fails_in_each,
    full_disk,
    kill,
    killed_before_each_call,
    killed_in_each_write,
    run_here,
    start,
    stop,
    strike_at_line,
    strike_in_write,
)

pytestmark = selection.once


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is such a thing: what is asked of the disk is not what is tried here."""
    shared = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as folder:
        yield Path(folder)


# What happens between a kill and the retry, in either kind of durability.
PROCESS = [pytest.param(event, False, id=f"process-{event.__name__}") for event in EVENTS]
POWER = [pytest.param(event, True, id=f"power-{event.__name__}") for event in (nothing, rotation)]
EACH = pytest.mark.parametrize(("event", "durable"), selection.slow_after(2, PROCESS + POWER))


def assert_appended_once(scene: Scene, event: Event) -> None:
    """The retry, and a resubmission after it, leave one line for each task."""
    for _ in range(2):
        scene.writer().append(LINE, identity=KEY)
        lines = sorted(scene.text().splitlines(keepends=True))
        others = [LINE] if event is same_text else [b"of another program\n"] if b"another" in scene.text() else []
        assert lines == sorted([FIRST, LINE, *others])


def assert_replaced_once(scene: Scene, event: Event) -> None:
    """The retry, and a resubmission, leave what the newest task wrote and what was added after it."""
    for _ in range(2):
        scene.writer().replace(LINE, identity=KEY)
        text = scene.text()
        if event is same_text:
            assert text in (LINE + LINE, FIRST + LINE)  # the append, after the replacement or instead of it
        else:
            assert text.count(LINE) == 1
            assert text.replace(b"of another program\n", b"") in (LINE, FIRST + LINE)
        if event is nothing:
            assert text == LINE
        assert not list(scene.folder.glob(".*.notifier")), "a stray temporary file"


@EACH
def test_append__killed_before_each_call(memory: Path, event: Event, durable: bool) -> None:
    stage = Stage(memory, durable=durable)
    for _ in killed_before_each_call(stage.append):
        event(stage.scene)
        assert_appended_once(stage.scene, event)


@pytest.mark.parametrize("event", selection.slow_after(1, [nothing, same_text, rotation, copytruncate]))
def test_append__killed_in_each_write(memory: Path, event: Event) -> None:
    stage = Stage(memory)
    for _ in killed_in_each_write(stage.append):
        event(stage.scene)
        assert_appended_once(stage.scene, event)


@pytest.mark.parametrize("event", selection.slow_after(1, [nothing, rotation, copytruncate]))
def test_append__the_first_line_and_killed_before_each_call(memory: Path, event: Event) -> None:
    """An empty log looks the same before the write, and after it was emptied."""

    stage = Stage(memory, empty=True)
    for _ in killed_before_each_call(stage.append):
        event(stage.scene)
        stage.scene.writer().append(LINE, identity=KEY)
        assert stage.scene.text() == LINE


@EACH
def test_replace__killed_before_each_call(memory: Path, event: Event, durable: bool) -> None:
    stage = Stage(memory, durable=durable)
    for _ in killed_before_each_call(stage.replace):
        event(stage.scene)
        assert_replaced_once(stage.scene, event)


@pytest.mark.parametrize("event", selection.slow_after(1, [nothing, rotation]))
def test_replace__killed_in_each_write(memory: Path, event: Event) -> None:
    stage = Stage(memory)
    for _ in killed_in_each_write(stage.replace):
        event(stage.scene)
        assert_replaced_once(stage.scene, event)


def test_replace__the_clock_was_set_back_and_killed_before_each_call(memory: Path) -> None:
    """From the replacement on that found the newest key in the future, the order counts again."""
    stage, future = Stage(memory), key(time.time_ns() // 1_000_000 + 3_600_000)

    def job(number: int) -> Job:
        stage.set(number).writer().append(FIRST, identity=future)
        return lambda: stage.scene.writer().replace(LINE, identity=KEY)

    for _ in killed_before_each_call(job):
        stage.scene.writer().replace(LINE, identity=KEY)
        assert stage.scene.writer().replace(FIRST, identity=key(1, 1)) is Outcome.SUPERSEDED
        assert stage.scene.text() == LINE


# Where a killed writer leaves its intent open: in which write, and after how many bytes.
OPEN_APPENDS = [(2, 0), (2, 7), (2, len(LINE))]  # into the log
# Into the temporary file, before and after it is noted that it is complete, and after the rename.
OPEN_REPLACEMENTS = [(2, 7), (3, 0), (3, RECORD.size + len(LINE)), (4, 0)]


@selection.slow
@pytest.mark.parametrize(
    ("write", "length", "event"),
    selection.slow_after(1, [*((*one, nothing) for one in OPEN_APPENDS), (*OPEN_APPENDS[1], rotation)]),
)
def test_append__the_next_writer_is_killed_too(memory: Path, write: int, length: int, event: Event) -> None:
    stage = Stage(memory)

    def retry(number: int) -> Job:
        assert not completes(stage.append(number), prepare=strike_in_write(write, length, kill))
        event(stage.scene)
        return lambda: stage.scene.writer().append(LINE, identity=KEY)

    for _ in killed_before_each_call(retry):
        assert_appended_once(stage.scene, event)


@selection.slow
@pytest.mark.parametrize(
    ("write", "length", "event"),
    selection.slow_after(1, [*((*one, nothing) for one in OPEN_REPLACEMENTS), (*OPEN_REPLACEMENTS[1], same_text)]),
)
def test_replace__the_next_writer_is_killed_too(memory: Path, write: int, length: int, event: Event) -> None:
    stage = Stage(memory)

    def retry(number: int) -> Job:
        assert not completes(stage.replace(number), prepare=strike_in_write(write, length, kill))
        return lambda: stage.scene.writer().replace(LINE, identity=KEY)

    for _ in killed_before_each_call(retry):
        event(stage.scene)
        assert_replaced_once(stage.scene, event)


@selection.slow
@pytest.mark.parametrize("work", selection.slow_after(1, [Stage.append, Stage.replace]), ids=["append", "replace"])
def test_writer__stopped_and_replaced_then_continued(memory: Path, work: Callable[[Stage, int], Job]) -> None:
    """At each line: another process writes the same in the meantime, or can't since the stopped one has the lock."""
    stage = Stage(memory)
    replaced = 0
    for number in count(1):
        pid = start(work(stage, number), prepare=strike_at_line(number, stop))
        if os.WIFEXITED(os.waitpid(pid, os.WUNTRACED)[1]):
            break
        scene = stage.scene
        scene.lock_wait = 0.0
        write = scene.writer().append if work is Stage.append else scene.writer().replace
        with suppress(TimeoutError):
            replaced += write(LINE, identity=KEY) is Outcome.WRITTEN
        os.kill(pid, signal.SIGCONT)
        assert end_of(pid) == 0
        assert write(LINE, identity=KEY) is Outcome.WRITTEN_BEFORE
        assert scene.text() == (FIRST if work is Stage.append else b"") + LINE
    assert replaced > 5
    assert number > 2 * replaced, "the lock was never held"


class OverdueError(SystemExit):
    """What django-q2 raises out of a signal handler, wherever the task may be."""


@pytest.mark.parametrize("work", [Stage.append, Stage.replace], ids=["append", "replace"])
def test_writer__interrupted_by_a_timeout(memory: Path, work: Callable[[Stage, int], Job]) -> None:
    """At each line: the process lives on, and the same writer tries again."""
    stage = Stage(memory)

    def overdue() -> None:
        raise OverdueError

    def job(number: int, outcome: Path) -> Job:
        work(stage, number)
        writer = stage.scene.writer()
        write = writer.append if work is Stage.append else writer.replace

        def write_twice() -> None:
            try:
                write(LINE, identity=KEY)
            except OverdueError:
                outcome.touch()
                write(LINE, identity=KEY)

        return write_twice

    for number in count(1):
        interrupted = memory / f"interrupted-{number}"
        run_here(job(number, interrupted), prepare=strike_at_line(number, overdue))
        assert stage.scene.text() == (FIRST if work is Stage.append else b"") + LINE
        if not interrupted.exists():
            break
    assert number > 40


@pytest.mark.parametrize("work", [Stage.append, Stage.replace], ids=["append", "replace"])
def test_writer__the_disk_is_full(memory: Path, work: Callable[[Stage, int], Job]) -> None:
    """In each write, after each number of bytes: nothing of it stays, and the retry writes it whole."""
    stage = Stage(memory)
    for _ in fails_in_each(partial(work, stage), full_disk):
        assert stage.scene.text() == FIRST
        assert_written_by_retry(stage.scene, work)


@pytest.mark.parametrize("work", [Stage.append, Stage.replace], ids=["append", "replace"])
def test_writer__the_disk_is_broken(memory: Path, work: Callable[[Stage, int], Job]) -> None:
    """In each write, the last one included, which notes that all is done: then it stands, and the retry knows."""
    stage = Stage(memory)
    for _ in fails_in_each(partial(work, stage), lambda number, length: broken_disk(number if not length else 0)):
        assert stage.scene.text() in (FIRST, LINE, FIRST + LINE)
        assert_written_by_retry(stage.scene, work)


def assert_written_by_retry(scene: Scene, work: Callable[[Stage, int], Job]) -> None:
    """Another writer comes first, and then the retry: once, whole."""
    between = b"in between\n"
    scene.writer().append(between, identity=key(1, 1))
    if work is Stage.append:
        scene.writer().append(LINE, identity=KEY)
        assert scene.text() in (FIRST + between + LINE, FIRST + LINE + between)
    else:
        scene.writer().replace(LINE, identity=KEY)
        assert scene.text() in (LINE, LINE + between)


def test_append__takes_only_a_part(memory: Path) -> None:
    """A limit on the file's size, as a full disk: write(2) takes what fits."""
    scene = Scene(memory / "scene")
    scene.writer().append(FIRST, identity=EARLIER)

    def attempt() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(scene.log.read_bytes()) + 5, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match=r"File too large|took only 5 of 15 bytes"):
            scene.writer().append(LINE, identity=KEY)

    # The journal's records are longer than what the limit lets through, so they go first.
    scene.writer().append(b"x" * 4096 + b"\n", identity=key(1, 1))
    assert completes(attempt)
    scene.writer().append(LINE, identity=KEY)
    assert scene.text() == FIRST + b"x" * 4096 + b"\n" + LINE


# The journal is trimmed.

FILLER = b"x" * journal.TRIM_FROM + b"\n"  # one such write makes the journal overgrown


def test_journal__killed_before_each_call_of_a_trimming(memory: Path) -> None:
    """What failed is still known, what succeeded may be forgotten, and the newest replacement stays the newest."""
    stage = Stage(memory)

    def job(number: int) -> Job:
        scene = stage.set(number)
        scene.writer().append(LINE, identity=KEY)
        scene.database = Tasks(lambda task: task != EARLIER.task)
        return lambda: scene.writer().append(FILLER, identity=LATER)

    for _ in killed_before_each_call(job):
        scene = stage.scene
        assert scene.writer().append(FIRST, identity=EARLIER) is Outcome.WRITTEN_BEFORE
        assert scene.writer().replace(b"late\n", identity=key(1, 1)) is Outcome.SUPERSEDED
        assert scene.log.read_bytes().startswith(FIRST + LINE)
    assert stage.scene.journal.stat().st_size < 1000, "it was never trimmed"


def test_writer__two_of_them_beside_rotation(memory: Path) -> None:
    """20,000 lines while the log is renamed all the time: none lost, none doubled, none split."""
    scene = Scene(memory / "scene", lock_wait=30)
    total, width = 10_000, len(b"writer 0 line 00000\n")

    def write(number: int) -> Job:
        def lines() -> None:
            writer = scene.writer()
            for line in range(total):
                writer.append(b"writer %d line %05d\n" % (number, line), identity=key(number * total + line))

        return lines

    pids = {start(write(number)) for number in range(2)}
    while pids:
        rotation(scene)
        for pid in list(pids):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                assert end_of(pid) == 0
                pids.remove(pid)
        time.sleep(0.01)
    lines = scene.text().splitlines(keepends=True)
    assert len(scene.archives()) > 5
    assert {len(line) for line in lines} == {width}
    assert sorted(lines) == sorted(b"writer %d line %05d\n" % (number, line) for number in range(2) for line in range(total))
    for number in range(2):
        own = [line for line in lines if line.startswith(b"writer %d" % number)]
        assert own == sorted(own), "out of order"


def test_writer__killed_at_any_moment_again_and_again(memory: Path) -> None:
    """Real kills, which may fall into a system call: each writer begins anew, and ends where all is written."""
    scene, total = Scene(memory / "scene"), 3_000
    chance = random.Random(8)

    def write() -> None:
        writer = scene.writer()
        for number in range(total):
            writer.append(b"the same line\n", identity=key(number))

    kills = 0
    while len(scene.text()) < total * len(b"the same line\n"):
        pid, goal = start(write), len(scene.text()) + chance.randrange(5_000)
        while len(scene.text()) < goal and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            pass
        os.kill(pid, signal.SIGKILL)
        kills += end_of(pid) != 0
    scene.writer().append(b"the end\n", identity=key(total))
    assert scene.text() == b"the same line\n" * total + b"the end\n"
    assert kills > 3


# What power costs is measured; that it is asked for in the right order is what can be tried without pulling the plug.


APPENDED = "pwrite log, fsync log, write log.txt, fsync log.txt, pwrite log"  # the journal is called "log"
REPLACED = (
    "pwrite log, pwrite .log.txt.notifier, fsync .log.txt.notifier, fsync run-1, "
    "pwrite log, fsync log, rename .log.txt.notifier, fsync run-1, pwrite log"
)


@pytest.mark.parametrize(("work", "expected"), [(Stage.append, APPENDED), (Stage.replace, REPLACED)], ids=["append", "replace"])
def test_power__what_reaches_the_disk_before_what(memory: Path, work: Callable[[Stage, int], Job], expected: str) -> None:
    calls = memory / "calls"
    assert completes(work(Stage(memory, durable=True), 1), prepare=partial(note_calls, calls))
    made = ", ".join(calls.read_text().splitlines())
    assert made[made.index("pwrite") :] == expected  # before comes what opening the journal costs, once


def note_calls(record: Path) -> None:
    """Have this process note its calls that change a file or wait for the disk, each with the file's name."""

    def noted(name: str) -> Callable[..., object]:
        genuine: Callable[..., object] = getattr(os, name)

        def call(file: int | Path, *rest: object) -> object:
            path = Path(os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else file)
            with record.open("a") as calls:
                calls.write(f"{name} {path.name}\n")
            return genuine(file, *rest)

        return call

    for name in ("write", "pwrite", "fsync", "rename"):
        setattr(os, name, noted(name))
