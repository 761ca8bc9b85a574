"""What is remembered of a task, and for how long: trims, and the attempts that outlive them."""

import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from notifications.log.journal import TRIM_FROM
from notifications.log.log_file import LogFile
from notifications.log.protocols import AttemptLostError, Outcome
from tests.support import selection
from tests.support.log_scenes import KEY, LINE, Scene, Tasks, key
from tests.support.log_writer import end_of, kill, start

pytestmark = selection.once

FILLER = b"x" * TRIM_FROM + b"\n"  # one such write makes the journal overgrown


class Attempt:
    """An attempt that begins now."""

    def __init__(self, *, held: bool = True) -> None:
        self.claimed = time.monotonic()
        self.held = held
        self.asked = 0

    def is_held(self) -> bool:
        self.asked += 1
        return self.held


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A scene in which every task that is asked for has ended."""
    return Scene(tmp_path / "scene", database=Tasks(lambda task: True))


def trim(scene: Scene, number: int = 900) -> None:
    """Have another process trim the journal."""
    scene.writer().append(FILLER, identity=key(number))


def remembers(scene: Scene, number: int) -> bool:
    """Whether the journal knows of the write of this task."""
    return scene.writer().append(b"", identity=key(number)) is Outcome.WRITTEN_BEFORE


# An attempt that began before the last trim.


def test_attempt__frozen_while_another_worker_ended_its_task(scene: Scene) -> None:
    """Thawed, it finds that its task was given to another, and what that one wrote be forgotten: it may not write."""
    frozen = scene.writer()
    frozen.open()
    attempt = Attempt(held=False)
    scene.writer().append(LINE, identity=KEY)
    trim(scene)
    assert not remembers(scene, 5)
    for method in (frozen.append, frozen.replace):
        with pytest.raises(AttemptLostError):
            method(LINE, identity=KEY, attempt=attempt)
    assert scene.log.read_bytes().count(LINE) == 1


def test_attempt__goes_on_when_its_lease_still_holds(scene: Scene) -> None:
    """It asks once for each trim that comes by, and no more."""
    writer = scene.writer()
    writer.open()
    attempt = Attempt()
    writer.append(b"before\n", identity=key(2, 1), attempt=attempt)
    assert attempt.asked == 0
    for trims in (1, 2):
        trim(scene, 900 + trims)
        writer.append(b"after\n", identity=key(2, 10 + trims), attempt=attempt)
        writer.append(b"after\n", identity=key(2, 20 + trims), attempt=attempt)
        assert attempt.asked == trims
    later = Attempt()
    writer.append(LINE, identity=key(3), attempt=later)
    assert later.asked == 0


def test_attempt__of_a_process_that_has_not_read_the_journal_yet(scene: Scene) -> None:
    attempt = Attempt(held=False)
    with pytest.raises(AttemptLostError):
        scene.writer().append(LINE, identity=KEY, attempt=attempt)


def test_attempt__nobody_can_tell(scene: Scene) -> None:
    """Then nothing is written, and the lock is free."""

    class Unsure(Attempt):
        def is_held(self) -> bool:
            raise ConnectionError("no database")

    with pytest.raises(ConnectionError):
        scene.writer().append(LINE, identity=KEY, attempt=Unsure())
    assert scene.writer().append(LINE, identity=KEY) is Outcome.WRITTEN


# Trims, and databases.


def test_trim__forgets_only_what_has_ended(scene: Scene) -> None:
    scene.database = Tasks(lambda task: task == key(1).task)
    for number in (1, 2):
        scene.writer().append(LINE, identity=key(number))
    trim(scene)
    assert remembers(scene, 2)
    assert not remembers(scene, 1)


def test_trim__asks_only_the_database_that_a_task_is_in(scene: Scene) -> None:
    """`DATABASE_URL` was pointed elsewhere and back, with trims between: to the other one each task is unknown."""
    scene.database = here = Tasks(lambda task: False, name=b"database")
    scene.writer().append(LINE, identity=KEY)
    scene.database = Tasks(lambda task: True, name=b"another ")
    trim(scene, 901)
    trim(scene, 902)
    scene.database = here
    trim(scene, 903)
    assert remembers(scene, 2)
    assert not remembers(scene, 901)


def test_trim__is_noted_in_the_database_before_it_happens(scene: Scene) -> None:
    class Failing(Tasks):
        def note_trim(self, journal: str, number: int) -> int:
            raise ConnectionError("no database")

    scene.database = Failing(lambda task: True)
    scene.writer().append(LINE, identity=KEY)
    trim(scene)
    assert remembers(scene, 2)


def test_trim__history_could_not_be_read(scene: Scene) -> None:
    class Failing(Tasks):
        def ended(self, tasks: Collection[bytes]) -> set[bytes]:
            raise ConnectionError("no history")

    scene.database = Failing(lambda task: True)
    scene.writer().append(LINE, identity=KEY)
    trim(scene)
    assert remembers(scene, 2)


def test_trim__of_two_processes_at_once_the_later_one_is_void(scene: Scene) -> None:
    """It asked before the other one trimmed, and the number tells."""

    class Overtaken(Tasks):
        def note_trim(self, journal: str, number: int) -> int:
            return 1

    scene.writer().append(LINE, identity=key(1))
    trim(scene)
    scene.writer().append(LINE, identity=KEY)
    scene.database = Overtaken(lambda task: True)
    trim(scene, 901)
    assert remembers(scene, 2)


def test_restored__a_copy_from_before_a_trim_is_told_once(scene: Scene) -> None:
    assert isinstance(scene.database, Tasks)
    trim(scene, 901)
    trim(scene, 902)
    writer = scene.writer()
    writer.open()
    assert writer.forgotten_trim() == 0
    scene.database.trims = 1
    assert writer.forgotten_trim() == 2
    assert writer.forgotten_trim() == 0
    trim(scene, 903)
    assert scene.database.trims == 3


def test_restored__a_copy_from_after_the_last_trim_is_as_good_as_ever(scene: Scene) -> None:
    assert isinstance(scene.database, Tasks)
    trim(scene)
    before = scene.database.trims
    scene.writer().append(LINE, identity=KEY)
    scene.database.trims = before
    writer = scene.writer()
    writer.open()
    assert writer.forgotten_trim() == 0
    assert remembers(scene, 2)


# The journal's file.


def test_journal__with_a_second_link(scene: Scene) -> None:
    """A backup by `cp -al`, then a trim: the journal in use is the one at its path."""
    scene.database = Tasks(lambda task: task != KEY.task)
    old = scene.writer()
    old.append(LINE, identity=KEY)
    os.link(scene.journal, scene.journal.with_name("backup"))
    trim(scene)
    old.append(b"more\n", identity=key(3))
    assert remembers(scene, 3)
    assert old.append(LINE, identity=KEY) is Outcome.WRITTEN_BEFORE
    assert scene.log.read_bytes().count(b"more\n") == 1


def test_journal__the_log_by_another_path(scene: Scene) -> None:
    """Folders that were moved or linked, two links to one file: one journal knows of all."""
    scene.writer().append(LINE, identity=KEY)
    (scene.folder / "linked").symlink_to(scene.folder)
    (scene.folder / "releases").mkdir()
    os.link(scene.log, scene.folder / "releases" / "log.txt")
    for path in (scene.folder / "linked" / "log.txt", scene.folder / "releases" / "log.txt"):
        scene.log = path
        assert scene.writer().append(LINE, identity=KEY) is Outcome.WRITTEN_BEFORE
    scene.folder = scene.folder.rename(scene.folder.with_name("moved"))
    scene.log = scene.folder / "log.txt"
    assert scene.writer().append(LINE, identity=KEY) is Outcome.WRITTEN_BEFORE
    assert scene.log.read_bytes() == LINE


def test_journal__deleted_after_trims(scene: Scene) -> None:
    """It is begun anew; its next trim has a number that is none of before."""
    assert isinstance(scene.database, Tasks)
    trim(scene, 901)
    trim(scene, 902)
    scene.journal.unlink()
    trim(scene, 903)
    assert scene.database.trims == 3
    scene.writer().append(LINE, identity=KEY)
    assert remembers(scene, 2)


# Threads.


def test_threads__share_one_writer(scene: Scene) -> None:
    """Forty threads, each text once, whole, each thread's in its order."""
    scene.database = None
    writer = scene.writer()

    def write(thread: int) -> None:
        for number in range(50):
            writer.append(b"%02d %02d\n" % (thread, number), identity=key(thread + 1, number))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = scene.log.read_bytes().splitlines()
    assert sorted(lines) == sorted(b"%02d %02d" % (thread, number) for thread in range(40) for number in range(50))
    for number in range(40):
        own = [line for line in lines if line.startswith(b"%02d " % number)]
        assert own == sorted(own)


def hold_the_lock(writer: LogFile) -> tuple[threading.Thread, threading.Event]:
    """A thread that holds the writer's lock in the middle of a write, until it is told to go on."""
    taken, done = threading.Event(), threading.Event()

    class Slow(Attempt):
        def is_held(self) -> bool:
            taken.set()
            return done.wait(10)

    thread = threading.Thread(target=writer.append, args=(LINE,), kwargs={"identity": KEY, "attempt": Slow()})
    thread.start()
    assert taken.wait(10)
    return thread, done


def test_threads__one_holds_the_lock_for_too_long(scene: Scene) -> None:
    scene.lock_wait = 0.05
    writer = scene.writer()
    thread, done = hold_the_lock(writer)
    with pytest.raises(TimeoutError, match="by another thread"):
        writer.append(LINE, identity=key(3))
    done.set()
    thread.join()
    assert writer.append(LINE, identity=key(3)) is Outcome.WRITTEN


def test_threads__a_fork_while_another_one_writes(scene: Scene) -> None:
    """The child has a lock and a journal of its own."""
    writer = scene.writer()
    thread, done = hold_the_lock(writer)
    child = os.fork()
    if not child:
        try:
            writer.append(b"of the child\n", identity=key(3))
            os._exit(0)
        finally:
            os._exit(1)
    time.sleep(0.05)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(scene.log.read_bytes().splitlines(keepends=True)) == sorted([LINE, b"of the child\n"])


# Replacements that are interrupted: tests/test_exactly_once.py tries each point. What somebody else does meanwhile:


def test_replace__a_cleaner_removed_the_file_before_it_was_renamed(scene: Scene) -> None:
    """Its name is gone, and nothing of it stands in the log: it is written by the retry."""
    scene.writer().append(b"before\n", identity=key(1))
    interrupted_replacement(scene).unlink()
    assert scene.writer().replace(LINE, identity=KEY) is Outcome.WRITTEN
    assert scene.log.read_bytes() == LINE


def test_replace__another_file_has_its_inode(scene: Scene) -> None:
    """An inode's number is given to the next file at once, here to another program's log."""
    scene.writer().append(b"before\n", identity=key(1))
    temporary = interrupted_replacement(scene)
    temporary.write_bytes(b"another program's\n")
    temporary.rename(scene.log)
    assert scene.writer().replace(LINE, identity=KEY) is Outcome.WRITTEN
    assert scene.log.read_bytes() == LINE


def test_replace__its_file_can_not_be_deleted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's, in a sticky folder: it has the noted inode and the text, and is not the log."""
    scene.writer().append(b"before\n", identity=key(1))
    interrupted_replacement(scene)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert scene.writer().append(b"more\n", identity=key(3)) is Outcome.WRITTEN
    assert scene.writer().replace(b"late\n", identity=KEY) is Outcome.SUPERSEDED
    assert scene.writer().replace(LINE, identity=key(3, 1)) is Outcome.WRITTEN
    assert scene.log.read_bytes() == LINE


def test_replace__was_renamed_and_rotated(scene: Scene) -> None:
    temporary = interrupted_replacement(scene)
    temporary.rename(scene.folder / "yesterday")
    assert scene.writer().replace(LINE, identity=KEY) is Outcome.WRITTEN_BEFORE
    assert not scene.log.exists()


def interrupted_replacement(scene: Scene) -> Path:
    """Kill a writer right before the rename of what is to become the log; return that file's path."""

    def kill_at_rename(*_: object) -> None:
        kill()

    def replace() -> None:
        os.rename = kill_at_rename  # type: ignore[assignment]
        scene.writer().replace(LINE, identity=KEY)

    assert end_of(start(replace)) < 0
    return scene.folder / ".log.txt.notifier"


def test_writers__of_one_journal_and_two_logs(tmp_path: Path) -> None:
    """A log that is configured anew: what was written to the old one isn't written again."""
    journal = tmp_path / "data" / "journal" / "log"
    old, new = (LogFile(tmp_path / name, journal_path=journal) for name in ("old.txt", "new.txt"))
    old.append(LINE, identity=KEY)
    assert new.append(LINE, identity=KEY) is Outcome.WRITTEN_BEFORE
    assert new.append(LINE, identity=key(3)) is Outcome.WRITTEN
    assert (tmp_path / "new.txt").read_bytes() == LINE


def test_journal__a_task_has_closed_its_descriptor(scene: Scene) -> None:
    """And another file has its number by now, which stays as it is."""
    other = scene.folder / "other"

    def task() -> None:
        writer = scene.writer()
        writer.append(b"one\n", identity=key(1))
        os.closerange(3, 256)
        for _ in range(100):
            os.open(other, os.O_RDWR | os.O_CREAT)
        assert writer.append(b"two\n", identity=key(2)) is Outcome.WRITTEN
        assert writer.append(b"one\n", identity=key(1)) is Outcome.WRITTEN_BEFORE

    assert end_of(start(task)) == 0
    assert other.read_bytes() == b""
    assert scene.log.read_bytes() == b"one\ntwo\n"


def test_trim__fails_when_the_disk_is_full(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would have dropped is still known."""
    writer = scene.writer()
    writer.append(LINE, identity=KEY)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        writer.append(FILLER, identity=key(900))
    assert writer.append(LINE, identity=KEY) is Outcome.WRITTEN_BEFORE
