"""notifications/logfile.py: what a write leaves, on real files of every kind."""

import os
import stat
import time
from pathlib import Path

import pytest

from notifications.log import journal
from notifications.log.identity import Identity
from notifications.log.owner import owner_path
from notifications.log.protocols import Outcome
from tests.support import selection
from tests.support.log_scenes import Scene, Tasks, key, mounted

pytestmark = selection.once

OLD, NEW = b"an old text\n", b"new"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A folder of its own."""
    return Scene(tmp_path / "scene")


def test_append__new_file(scene: Scene) -> None:
    assert scene.writer().append("grüße\n".encode(), identity=key(1)) is Outcome.WRITTEN
    assert scene.log.read_text("utf-8") == "grüße\n"


def test_append__the_same_key_again(scene: Scene) -> None:
    writer = scene.writer()
    writer.append(OLD, identity=key(1))
    assert writer.append(OLD, identity=key(1)) is Outcome.WRITTEN_BEFORE
    assert scene.writer().append(OLD, identity=key(1)) is Outcome.WRITTEN_BEFORE
    assert writer.append(OLD, identity=key(1, 1)) is Outcome.WRITTEN  # the same task's next write
    assert scene.log.read_bytes() == OLD + OLD


def test_append__two_writers_take_turns(scene: Scene) -> None:
    one, other = scene.writer(), scene.writer()
    for number in range(10):
        assert (one if number % 2 else other).append(b"%d" % number, identity=key(number)) is Outcome.WRITTEN
    assert [one.append(b"again", identity=key(number)) for number in range(10)] == [Outcome.WRITTEN_BEFORE] * 10
    assert scene.log.read_bytes() == b"0123456789"


@pytest.mark.parametrize("number", [1, 3], ids=["older", "newer"])
def test_append__is_never_superseded(scene: Scene, number: int) -> None:
    scene.writer().replace(OLD, identity=key(2))
    scene.writer().append(NEW, identity=key(number))
    assert scene.log.read_bytes() == OLD + NEW


def test_replace__all_that_was_there(scene: Scene) -> None:
    scene.log.write_bytes(OLD)
    assert scene.writer().replace(NEW, identity=key(1)) is Outcome.WRITTEN
    assert scene.log.read_bytes() == NEW


def test_replace__no_reader_sees_it_half_done(scene: Scene) -> None:
    scene.log.write_bytes(OLD)
    with scene.log.open("rb") as reader:
        scene.writer().replace(NEW, identity=key(1))
        assert reader.read() == OLD


@pytest.mark.parametrize("method", ["append", "replace"])
def test_replace__older_than_what_was_written(scene: Scene, method: str) -> None:
    getattr(scene.writer(), method)(OLD, identity=key(2))
    assert scene.writer().replace(NEW, identity=key(1)) is Outcome.SUPERSEDED
    assert scene.writer().replace(NEW, identity=key(1)) is Outcome.SUPERSEDED
    assert scene.log.read_bytes() == OLD


def test_replace__two_calls_of_one_task(scene: Scene) -> None:
    scene.writer().replace(OLD, identity=key(1, 0))
    assert scene.writer().replace(NEW, identity=key(1, 1)) is Outcome.WRITTEN
    assert scene.writer().replace(OLD, identity=key(1, 0)) is Outcome.WRITTEN_BEFORE
    assert scene.log.read_bytes() == NEW


def test_replace__the_clock_was_set_back(scene: Scene) -> None:
    """What claims to have been queued in the future makes nothing old; from then on the order counts again."""
    now = time.time_ns() // 1_000_000
    scene.writer().append(OLD, identity=key(now + 3_600_000))
    assert scene.writer().replace(b"two", identity=key(2)) is Outcome.WRITTEN
    assert scene.writer().replace(b"one", identity=key(1)) is Outcome.SUPERSEDED
    assert scene.writer().replace(b"three", identity=key(3)) is Outcome.WRITTEN
    assert scene.log.read_bytes() == b"three"


def test_replace__ids_that_tell_no_time(scene: Scene) -> None:
    """django-q2's own random ids: the last one to write wins."""
    assert scene.writer().replace(OLD, identity=Identity(b"\xff" * 6 + b"\x4f" + b"\xff" * 9)) is Outcome.WRITTEN
    assert scene.writer().replace(NEW, identity=Identity(b"\x00" * 6 + b"\x4f" + b"\xff" * 9)) is Outcome.WRITTEN
    assert scene.log.read_bytes() == NEW


def test_replace__permissions_and_owner_are_kept(scene: Scene) -> None:
    scene.log.write_bytes(OLD)
    scene.log.chmod(0o640)
    owner = (1234, 1234) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(scene.log, *owner)
    scene.writer().replace(NEW, identity=key(1))
    status = scene.log.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, *owner)


def test_replace__a_new_file_has_the_usual_permissions(scene: Scene) -> None:
    scene.writer().replace(NEW, identity=key(1))
    usual = scene.folder / "usual"
    usual.touch()
    assert scene.log.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("exists", [True, False], ids=["to a file", "to nothing yet"])
def test_replace__a_symbolic_link_is_followed(scene: Scene, exists: bool) -> None:
    real = scene.folder / "elsewhere" / "real.txt"
    real.parent.mkdir()
    if exists:
        real.write_bytes(OLD)
    scene.log.symlink_to(real)
    scene.writer().replace(NEW, identity=key(1))
    assert scene.log.is_symlink()
    assert real.read_bytes() == NEW
    assert set(real.parent.iterdir()) <= {real, owner_path(real)}


def test_replace__a_stray_temporary_file_of_a_dead_writer(scene: Scene) -> None:
    (scene.folder / ".log.txt.notifier").write_bytes(b"left behind")
    scene.writer().replace(NEW, identity=key(1))
    assert scene.log.read_bytes() == NEW
    assert not list(scene.folder.glob(".*.notifier"))


def test_write__the_log_was_deleted_or_cut_in_between(scene: Scene) -> None:
    writer = scene.writer()
    writer.append(OLD, identity=key(1))
    scene.log.unlink()
    writer.append(NEW, identity=key(2))
    os.truncate(scene.log, 1)
    writer.append(NEW, identity=key(3))
    assert scene.log.read_bytes() == b"nnew"
    assert writer.append(OLD, identity=key(1)) is Outcome.WRITTEN_BEFORE


# What is no regular file.


@pytest.mark.parametrize("method", ["append", "replace"])
def test_write__a_fifo_without_a_reader(scene: Scene, method: str) -> None:
    os.mkfifo(scene.log)
    with pytest.raises(OSError, match=r"No such device or address.*log\.txt"):
        getattr(scene.writer(), method)(NEW, identity=key(1))


@pytest.mark.parametrize("method", ["append", "replace"])
def test_write__a_fifo_with_a_reader(scene: Scene, method: str) -> None:
    os.mkfifo(scene.log)
    reader = os.open(scene.log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        getattr(scene.writer(), method)(NEW, identity=key(1))
        assert os.read(reader, 100) == NEW
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(scene.log.stat().st_mode)


def test_append__a_fifo_whose_reader_sleeps(scene: Scene) -> None:
    os.mkfifo(scene.log)
    reader = os.open(scene.log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError, match=r"log\.txt"):
            append_all(scene, b"x" * 999 + b"\n", 1_000)
        taken = os.read(reader, 1 << 20)
    finally:
        os.close(reader)
    assert set(taken.splitlines()) == {b"x" * 999}, "torn"


@pytest.mark.parametrize("method", ["append", "replace"])
def test_write__to_nowhere(scene: Scene, method: str) -> None:
    scene.log.symlink_to("/dev/null")
    for _ in range(2):
        assert getattr(scene.writer(), method)(NEW, identity=key(1)) is Outcome.WRITTEN
    assert stat.S_ISCHR(scene.log.stat().st_mode)


@pytest.mark.parametrize("method", ["append", "replace"])
def test_write__a_folder(scene: Scene, method: str) -> None:
    scene.log.mkdir()
    with pytest.raises(IsADirectoryError, match=r"Is a directory.*log\.txt"):
        getattr(scene.writer(), method)(NEW, identity=key(1))


@pytest.mark.parametrize("method", ["append", "replace"])
def test_write__the_folder_is_missing(scene: Scene, method: str) -> None:
    scene.log = scene.folder / "missing" / "log.txt"
    with pytest.raises(FileNotFoundError, match=r"missing"):
        getattr(scene.writer(), method)(NEW, identity=key(1))
    scene.log.parent.mkdir()
    getattr(scene.writer(), method)(NEW, identity=key(1))
    assert scene.log.read_bytes() == NEW


@pytest.mark.parametrize("method", ["append", "replace"])
def test_write__a_read_only_file_system(scene: Scene, method: str) -> None:
    scene.log = scene.folder / "disk" / "log.txt"
    scene.log.parent.mkdir()
    with (
        mounted("-t", "tmpfs", "-o", "ro", "tmpfs", at=scene.log.parent),
        pytest.raises(OSError, match=r"Read-only file system.*log\.txt"),
    ):
        getattr(scene.writer(), method)(NEW, identity=key(1))


def test_write__a_full_file_system_and_then_room_again(scene: Scene) -> None:
    line = b"a line of some length, so that the end falls into the middle of one\n"
    scene.log = scene.folder / "disk" / "log.txt"
    scene.log.parent.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", at=scene.log.parent):
        ballast = scene.log.with_name("ballast")
        ballast.write_bytes(b"x" * 32_768)
        with pytest.raises(OSError, match=r"(No space left|took only).*"):
            append_all(scene, line, 600)
        written = len(scene.log.read_bytes()) // len(line)
        assert scene.log.read_bytes() == line * written
        with pytest.raises(OSError, match=r"No space left on device.*log\.txt"):
            scene.writer().replace(line * 400, identity=key(1_000))
        ballast.unlink()
        append_all(scene, line, 600)
        assert scene.log.read_bytes() == line * 600


def append_all(scene: Scene, line: bytes, total: int) -> None:
    """So many writes of one line."""
    for number in range(total):
        scene.writer().append(line, identity=key(number))


def test_write__no_room_for_the_journal(scene: Scene) -> None:
    data = scene.folder / "data"
    data.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=32k", "tmpfs", at=data):
        ballast = data / "ballast"
        ballast.write_bytes(b"x" * 24_576)
        with pytest.raises(OSError, match=r"No space left.*journal"):
            append_all(scene, OLD, 1_000)
        written = len(scene.log.read_bytes().splitlines())
        ballast.unlink()
        append_all(scene, OLD, written + 1)
        assert scene.log.read_bytes() == OLD * (written + 1)


# The lock and the journal.


def test_write__the_lock_is_held_for_too_long(scene: Scene) -> None:
    scene.lock_wait = 0.05
    scene.writer().append(OLD, identity=key(1))
    held = journal.Journal(scene.journal)
    try:
        held.take(lambda intent: b"v")
        with pytest.raises(TimeoutError, match=r"locked by another process for 0\.05 s"):
            scene.writer().append(NEW, identity=key(2))
    finally:
        held.let_go()
    assert scene.writer().append(NEW, identity=key(2)) is Outcome.WRITTEN


def test_write__within_a_write(scene: Scene) -> None:
    """By a signal handler: it is refused, and neither disturbs the write in hand nor the next one."""
    writer = scene.writer()
    genuine, said = os.write, []

    def write(fd: int, text: bytes) -> int:
        with pytest.raises(RuntimeError, match="in the middle of another write") as refused:
            writer.append(b"nested\n", identity=key(2))
        said.append(refused)
        return genuine(fd, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        assert writer.append(b"one\n", identity=key(1)) is Outcome.WRITTEN
    assert len(said) == 1
    assert scene.writer().append(b"another's\n", identity=key(3)) is Outcome.WRITTEN
    assert writer.append(b"one\n", identity=key(1)) is Outcome.WRITTEN_BEFORE
    assert writer.append(b"nested\n", identity=key(2)) is Outcome.WRITTEN
    assert scene.log.read_bytes() == b"one\nanother's\nnested\n"


def test_journal__is_not_shared_with_a_forked_child(tmp_path: Path) -> None:
    """What a child inherits is the parent's lock: it opens one of its own."""
    held = journal.Journal(tmp_path / "journal", lock_wait=0.0)
    try:
        held.take(lambda intent: b"v")
        child = os.fork()
        if not child:
            try:
                held.take(lambda intent: b"v")
            except TimeoutError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        held.let_go()


def test_journal__deleted_or_cut_by_somebody(scene: Scene) -> None:
    """It is begun anew; what was written is forgotten then, and nothing else breaks."""
    path, writer = scene.journal, scene.writer()
    writer.append(OLD, identity=key(1))
    path.unlink()
    writer.append(NEW, identity=key(2))
    os.truncate(path, 10)
    writer.append(NEW, identity=key(3))
    assert scene.writer().append(NEW, identity=key(3)) is Outcome.WRITTEN_BEFORE
    assert scene.log.read_bytes() == OLD + NEW + NEW


def test_journal__a_record_that_did_not_reach_the_disk(scene: Scene) -> None:
    """After a power cut a file may have its length, and zeros in the place of its end."""
    for number in (1, 2):
        scene.writer().append(OLD, identity=key(number))
    with (scene.journal).open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(bytes(5))
    assert scene.writer().append(OLD, identity=key(1)) is Outcome.WRITTEN_BEFORE
    assert scene.writer().append(OLD, identity=key(2)) is Outcome.WRITTEN


@pytest.mark.parametrize("way", ["damaged", "cut short"])
def test_journal__damage_is_told_and_a_kill_is_not(way: str, scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        scene.writer().append(OLD, identity=key(number))
    if way == "damaged":
        with scene.journal.open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(bytes(5))
    else:
        os.truncate(scene.journal, scene.journal.stat().st_size - 5)
    scene.writer().append(NEW, identity=key(3))
    told = [record.getMessage() for record in caplog.records if "was damaged, and cut at byte" in record.getMessage()]
    assert len(told) == (way == "damaged")


def test_journal__keeps_what_may_come_back(scene: Scene) -> None:
    """Twenty thousand failed tasks are remembered, and cost the others little: they are looked through seldom."""
    total, kept = 60_000, 20_000
    scene.database = Tasks(lambda task: task >= key(kept).task)
    writer, other = scene.writer(), scene.writer()
    for number in range(total):
        writer.append(b".", identity=key(number))
    assert 1 < scene.database.looks < 5
    assert scene.journal.stat().st_size < 5 * journal.TRIM_FROM
    assert other.append(b".", identity=key(kept - 1)) is Outcome.WRITTEN_BEFORE
    assert writer.append(b".", identity=key(0)) is Outcome.WRITTEN_BEFORE
    assert scene.log.stat().st_size == total


def test_journal__trimming_fails(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    def has_ended(task: bytes) -> bool:
        raise ConnectionError("no database")

    scene.database = Tasks(has_ended)
    writer = scene.writer()
    assert writer.append(b"x" * journal.TRIM_FROM, identity=key(1)) is Outcome.WRITTEN
    assert "no database" in caplog.text
    assert writer.append(b"x", identity=key(1)) is Outcome.WRITTEN_BEFORE
