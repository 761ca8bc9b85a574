"""The cases that docs/exactly-once.md names under "Where it ends": what comes of two faults at once, or of another program.

Each takes what the promise leaves open, so these tests show where it ends; none of them is wanted.
"""

import gzip
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from notifications.log.identity import Identity, mark_of_text
from notifications.log.interrupted_appends import SEARCH_WINDOW
from notifications.log.journal import TRIM_FROM
from notifications.log.log_file import LogFile
from notifications.log.owner import owner_path
from notifications.log.protocols import Outcome
from tests.support import selection
from tests.support.log_scenes import EARLIER, FIRST, KEY, LINE, Scene, Tasks, copytruncate, foreign_text, key
from tests.support.log_writer import completes, end_of, kill, start, strike_in_write

pytestmark = selection.once

BEFORE_THE_LINE, IN_THE_LINE, AFTER_THE_LINE = 0, 5, len(LINE)  # bytes of it that reached the log


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A log with one line, in a folder that other users may enter."""
    shared = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        Path(folder).chmod(0o755)
        scene = Scene(Path(folder) / "scene")
        scene.writer().append(FIRST, identity=EARLIER)
        yield scene


def interrupt_append(scene: Scene, written: int) -> None:
    """Kill a writer when so many bytes of its line have reached the log."""
    # The second write goes to the log; the first one notes the intent.
    job = scene.writer()
    assert not completes(lambda: job.append(LINE, identity=KEY), prepare=strike_in_write(2, written, kill))


def retry_append(scene: Scene) -> Outcome:
    """The task's next attempt."""
    return scene.writer().append(LINE, identity=KEY)


# Appends.


@pytest.mark.parametrize("way", ["deleted", "moved", "compressed"])
def test_append__interrupted_and_the_log_is_gone(scene: Scene, way: str) -> None:
    interrupt_append(scene, AFTER_THE_LINE)
    if way == "moved":
        (scene.folder / "archive").mkdir()
        scene.log.rename(scene.folder / "archive" / "log.txt")
    else:
        if way == "compressed":
            (scene.folder / "log.txt.gz").write_bytes(gzip.compress(scene.log.read_bytes()))
        scene.log.unlink()
    assert retry_append(scene) is Outcome.WRITTEN


def test_append__interrupted_and_truncated_and_more_is_appended(scene: Scene) -> None:
    interrupt_append(scene, AFTER_THE_LINE)
    copytruncate(scene)
    with scene.log.open("ab") as log:
        log.write(b"another program's\n" * 10)
    assert retry_append(scene) is Outcome.WRITTEN


def test_append__interrupted_behind_more_than_the_window(scene: Scene) -> None:
    """Another program's MiB came between the look at the log's size and the line."""
    child = os.fork()
    if not child:
        genuine = os.write

        def write(fd: int, text: bytes) -> NoReturn:
            with scene.log.open("ab") as log:
                log.write(b"y" * (SEARCH_WINDOW + len(LINE)) + b"\n")
            genuine(fd, text)
            kill()
            raise AssertionError

        os.write = write  # type: ignore[assignment]
        retry_append(scene)
    assert end_of(child) < 0
    assert retry_append(scene) is Outcome.WRITTEN
    assert scene.log.read_bytes().count(LINE) == 2


def test_append__interrupted_and_the_log_can_not_be_read(scene: Scene) -> None:
    interrupt_append(scene, AFTER_THE_LINE)
    scene.log.chmod(0o222)
    for path in (scene.folder, scene.journal.parent):
        path.chmod(0o777)
    for path in scene.journal.parent.iterdir():
        path.chmod(0o666)

    def retry() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        retry_append(scene)

    assert end_of(start(retry)) == 0
    scene.log.chmod(0o666)
    assert scene.log.read_bytes() == FIRST + LINE + LINE


def test_append__torn_and_another_program_appends(scene: Scene) -> None:
    interrupt_append(scene, IN_THE_LINE)
    foreign_text(scene)
    assert retry_append(scene) is Outcome.WRITTEN
    assert scene.log.read_bytes() == FIRST + LINE[:IN_THE_LINE] + b"of another program\n" + LINE


def test_append__interrupted_and_another_program_appends_the_same(scene: Scene) -> None:
    interrupt_append(scene, BEFORE_THE_LINE)
    with scene.log.open("ab") as log:
        log.write(LINE)
    assert retry_append(scene) is Outcome.WRITTEN_BEFORE
    assert scene.log.read_bytes() == FIRST + LINE


@pytest.mark.parametrize("written", [BEFORE_THE_LINE, IN_THE_LINE])
def test_append__interrupted_beside_a_file_of_another_program(scene: Scene, written: int) -> None:
    """Its name begins with the log's, and the very line stands in it at the noted place: nothing ends there."""
    interrupt_append(scene, written)
    other = scene.log.with_name(f"{scene.log.name}.b")
    other.write_bytes(FIRST + LINE)
    assert retry_append(scene) is Outcome.WRITTEN
    assert scene.log.read_bytes() == FIRST + LINE
    assert other.read_bytes() == FIRST + LINE


def test_append__between_the_copy_and_the_truncation(scene: Scene) -> None:
    scene.next_archive().write_bytes(scene.log.read_bytes())
    assert retry_append(scene) is Outcome.WRITTEN
    os.truncate(scene.log, 0)
    assert LINE not in scene.text()


# Replacements.


def interrupt_replacement(scene: Scene, write: int, length: int) -> None:
    """Kill a writer in one of its writes: the intent, the temporary file, its name in the journal, the end."""
    job = scene.writer()
    assert not completes(lambda: job.replace(LINE, identity=KEY), prepare=strike_in_write(write, length, kill))


def retry_replacement(scene: Scene) -> Outcome:
    """The task's next attempt."""
    return scene.writer().replace(LINE, identity=KEY)


@pytest.mark.parametrize("way", ["deleted", "overwritten"])
def test_replace__renamed_and_gone_in_that_instant(scene: Scene, way: str) -> None:
    interrupt_replacement(scene, 4, 0)
    assert scene.log.read_bytes() == LINE
    if way == "deleted":
        scene.log.unlink()
    else:
        scene.log.write_bytes(b"another program's\n")
    assert retry_replacement(scene) is Outcome.WRITTEN
    assert scene.log.read_bytes() == LINE


def test_replace__interrupted_while_its_file_is_noted(scene: Scene) -> None:
    """A record that is half renewed is cut off; what it named stays until the next replacement."""
    temporary = scene.folder / ".log.txt.notifier"
    interrupt_replacement(scene, 3, 20)
    assert scene.writer().append(b"more\n", identity=key(3)) is Outcome.WRITTEN
    assert temporary.exists()
    assert scene.writer().replace(LINE, identity=key(4)) is Outcome.WRITTEN
    assert not temporary.exists()


def interrupt_overwriting(scene: Scene) -> None:
    """Kill a writer in the middle of writing over a log that nothing can be renamed over."""
    scene.log.write_bytes(b"a much longer text\n" * 3)

    def prepare() -> None:
        def rename(*_: object) -> NoReturn:
            raise OSError(18, "Invalid cross-device link")

        os.rename = rename  # type: ignore[assignment]
        strike_in_write(5, 4, kill)()

    job = scene.writer()
    assert not completes(lambda: job.replace(LINE, identity=KEY), prepare=prepare)
    assert scene.log.read_bytes().startswith(LINE[:4] + b"c")


def test_replace__interrupted_in_place_and_another_program_appends(scene: Scene) -> None:
    interrupt_overwriting(scene)
    foreign_text(scene)
    assert retry_replacement(scene) is Outcome.WRITTEN_BEFORE
    assert scene.log.read_bytes() == LINE


def test_replace__interrupted_in_place_and_renamed(scene: Scene) -> None:
    interrupt_overwriting(scene)
    archive = scene.log.rename(scene.next_archive())
    assert retry_replacement(scene) is Outcome.WRITTEN
    assert scene.log.read_bytes() == LINE
    assert LINE not in archive.read_bytes()


def test_replace__in_another_order_on_the_retry(scene: Scene) -> None:
    """Each was written once already."""
    for names in ("ab", "ba"):
        for name in names:
            scene.writer().replace(name.encode(), identity=key(2, ord(name)))
    assert scene.log.read_bytes() == b"b"


# The journal, the database, the owner.


def test_journal__deleted_while_a_retry_is_pending(scene: Scene) -> None:
    retry_append(scene)
    scene.journal.unlink()
    assert retry_append(scene) is Outcome.WRITTEN


def test_database__restored_from_before_it_was_written_with(scene: Scene) -> None:
    """It has another name then, so nobody can tell that it is an older one."""
    scene.database = Tasks(lambda task: True)
    retry_append(scene)
    scene.writer().append(b"x" * TRIM_FROM, identity=key(9))
    scene.database = Tasks(lambda task: False, name=b"restored")
    writer = scene.writer()
    writer.open()
    assert writer.forgotten_trim() == 0
    assert retry_append(scene) is Outcome.WRITTEN


def test_owner__one_file_by_hard_links_in_two_folders(scene: Scene) -> None:
    other = scene.folder / "other" / "log.txt"
    other.parent.mkdir()
    os.link(scene.log, other)
    held = scene.writer()
    held.append(LINE, identity=KEY)
    second = LogFile(other, journal_path=scene.folder / "second" / "journal" / "log")
    assert second.append(LINE, identity=KEY) is Outcome.WRITTEN


def test_owner__its_file_is_deleted(scene: Scene) -> None:
    held = scene.writer()
    held.append(LINE, identity=KEY)
    owner_path(scene.log).unlink()
    second = LogFile(scene.log, journal_path=scene.folder / "second" / "journal" / "log")
    assert second.append(LINE, identity=KEY) is Outcome.WRITTEN


def test_thread__writes_again_after_its_task_was_forgotten(scene: Scene) -> None:
    """Its attempt has ended, so no lease tells."""
    scene.database = Tasks(lambda task: True)
    retry_append(scene)
    scene.writer().append(b"x" * TRIM_FROM, identity=key(9))
    assert retry_append(scene) is Outcome.WRITTEN


def test_legacy__the_old_version_goes_on_beside_the_new_one(scene: Scene) -> None:
    """What it writes after the new one has begun its journal, the new one doesn't learn."""
    fixture = Path(__file__).parent / "fixtures" / "journal-0.1"
    old = scene.journal.with_name("0123456789abcdef-log.txt")
    scene.writer().open()
    old.write_bytes(fixture.read_bytes())
    written_by_the_old_one = Identity(key(4).task, mark_of_text("append", 1, b"message to bob\n"))
    assert scene.writer().append(b"message to bob\n", identity=written_by_the_old_one) is Outcome.WRITTEN
