"""Whose log it is: two data folders that write to one log know nothing of each other's writes."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from notifications.log import journal_id, owner
from notifications.log.log_file import LogFile
from notifications.log.owner import OwnedError, other_owner, owner_path
from notifications.log.protocols import Outcome
from tests.support import selection
from tests.support.log_scenes import FIRST, LINE, Scene, key
from tests.support.log_writer import kill, start

pytestmark = selection.once


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "TAKEOVER_WAIT_SECONDS", 0.1)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log in a folder of its own."""
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "log.txt"


def journal(tmp_path: Path, name: str) -> Path:
    """The journal of a data folder of this name."""
    return tmp_path / name / "journal" / "log"


@pytest.fixture
def one(tmp_path: Path, log: Path) -> Iterator[LogFile]:
    """A writer of the first data folder, which has written."""
    writer = LogFile(log, journal_path=journal(tmp_path, "one"))
    writer.append(FIRST, identity=key(1))
    yield writer
    writer.close()


@pytest.mark.parametrize("method", ["append", "replace"])
def test_owner__a_second_data_folder_is_refused(tmp_path: Path, log: Path, one: LogFile, method: str) -> None:
    two = LogFile(log, journal_path=journal(tmp_path, "two"))
    with pytest.raises(OwnedError, match=f"{tmp_path}/one, and can't be used by {tmp_path}/two"):
        getattr(two, method)(LINE, identity=key(2))
    assert log.read_bytes() == FIRST
    assert other_owner(log, journal(tmp_path, "two")) == str(tmp_path / "one")
    assert other_owner(log, journal(tmp_path, "one")) is None


@pytest.mark.parametrize("method", ["append", "replace"])
def test_owner__a_second_spelling_of_the_log(tmp_path: Path, log: Path, one: LogFile, method: str) -> None:
    """By a symbolic link to the folder, and to the file."""
    (tmp_path / "folder").symlink_to(log.parent)
    (tmp_path / "link.txt").symlink_to(log)
    for path in (tmp_path / "folder" / "log.txt", tmp_path / "link.txt"):
        two = LogFile(path, journal_path=journal(tmp_path, "two"))
        with pytest.raises(OwnedError):
            getattr(two, method)(LINE, identity=key(2))
        assert other_owner(path, journal(tmp_path, "two")) == str(tmp_path / "one")


def test_owner__is_taken_over_when_nobody_holds_it(
    tmp_path: Path, log: Path, one: LogFile, caplog: pytest.LogCaptureFixture
) -> None:
    one.close()
    assert other_owner(log, journal(tmp_path, "two")) is None
    two = LogFile(log, journal_path=journal(tmp_path, "two"))
    assert two.append(LINE, identity=key(2)) is Outcome.WRITTEN
    assert f"belonged to the data folder {tmp_path}/one, and belongs to {tmp_path}/two from now on" in caplog.text
    with pytest.raises(OwnedError):
        one.append(LINE, identity=key(3))


def test_owner__its_holder_was_killed(tmp_path: Path, log: Path) -> None:
    def write() -> None:
        LogFile(log, journal_path=journal(tmp_path, "one")).append(FIRST, identity=key(1))
        kill()

    os.waitpid(start(write), 0)
    two = LogFile(log, journal_path=journal(tmp_path, "two"))
    assert two.append(LINE, identity=key(2)) is Outcome.WRITTEN


def test_owner__a_child_that_was_forked_holds_it_too(tmp_path: Path, log: Path, one: LogFile) -> None:
    pid = start(lambda: one.append(LINE, identity=key(2)))
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(OwnedError):  # the child's end has not let go of what the parent holds
        LogFile(log, journal_path=journal(tmp_path, "two")).append(LINE, identity=key(3))


def test_owner__the_data_folder_was_moved(tmp_path: Path, log: Path, one: LogFile, caplog: pytest.LogCaptureFixture) -> None:
    one.close()
    (tmp_path / "one").rename(tmp_path / "moved")
    moved = LogFile(log, journal_path=journal(tmp_path, "moved"))
    assert moved.append(FIRST, identity=key(1)) is Outcome.WRITTEN_BEFORE
    assert moved.append(LINE, identity=key(2)) is Outcome.WRITTEN
    assert not caplog.text


def test_owner__a_copy_of_the_data_folder(tmp_path: Path, log: Path, one: LogFile) -> None:
    """It has the same id, and is another one."""
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    with pytest.raises(OwnedError):
        LogFile(log, journal_path=journal(tmp_path, "copy")).append(LINE, identity=key(2))
    assert other_owner(log, journal(tmp_path, "copy")) == str(tmp_path / "one")


def test_owner__no_such_file_can_be_made(tmp_path: Path, log: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and the log is written to all the same."""
    owner_path(log).mkdir()  # which hinders root, too
    writer = LogFile(log, journal_path=journal(tmp_path, "one"))
    for number in (1, 2):
        assert writer.append(LINE, identity=key(number)) is Outcome.WRITTEN
        log.unlink()
    assert caplog.text.count("can't be marked as in use by this data folder") == 1


@pytest.mark.parametrize("content", ["", "garbage", '{"journal": 1}', "[]"])
def test_owner__a_file_that_names_nobody(tmp_path: Path, log: Path, content: str) -> None:
    owner_path(log).write_text(content)
    writer = LogFile(log, journal_path=journal(tmp_path, "one"))
    assert writer.append(LINE, identity=key(1)) is Outcome.WRITTEN
    assert str(tmp_path / "one") in owner_path(log).read_text()


def test_owner__not_beside_what_is_no_regular_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = LogFile(fifo, journal_path=journal(tmp_path, "one"))
    writer.open()
    assert not owner_path(fifo).exists()
    assert other_owner(fifo, journal(tmp_path, "one")) is None


def test_owner__the_log_is_rotated(tmp_path: Path, log: Path, one: LogFile) -> None:
    log.rename(log.with_name("log.txt.1"))
    assert one.append(LINE, identity=key(2)) is Outcome.WRITTEN
    with pytest.raises(OwnedError):
        LogFile(log, journal_path=journal(tmp_path, "two")).append(LINE, identity=key(3))


def test_owner__a_link_that_leads_elsewhere_now(tmp_path: Path, one: LogFile) -> None:
    """The new file is ours from the next write on, and the old one anybody's."""
    link, first, second = tmp_path / "link.txt", tmp_path / "1" / "log.txt", tmp_path / "2" / "log.txt"
    first.parent.mkdir()
    second.parent.mkdir()
    link.symlink_to(first)
    writer, scene = LogFile(link, journal_path=journal(tmp_path, "three")), Scene(tmp_path / "scene")
    writer.append(LINE, identity=key(1))
    link.unlink()
    link.symlink_to(second)
    writer.append(LINE, identity=key(2))
    scene.log = second
    with pytest.raises(OwnedError):
        scene.writer().append(LINE, identity=key(3))
    scene.log = first
    assert scene.writer().append(LINE, identity=key(3)) is Outcome.WRITTEN


def test_journal_id__is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "data" / "id"
    assert journal_id.read_id(path) is None
    made = journal_id.read_or_make_id(path)
    assert journal_id.read_or_make_id(path) == journal_id.read_id(path) == made
    path.write_text("garbage")
    assert journal_id.read_id(path) == ""
    again = journal_id.read_or_make_id(path)
    assert (again != made, journal_id.read_id(path)) == (True, again)
    assert list(path.parent.iterdir()) == [path]
