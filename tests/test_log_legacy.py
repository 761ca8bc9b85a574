"""A data folder of version 0.1: what its journal knew of is not written again."""

import fcntl
import os
import struct
from pathlib import Path
from zlib import crc32

import pytest

from notifications.log import legacy
from notifications.log.identity import Identity, mark_of_key, mark_of_repetition, mark_of_text
from notifications.log.log_file import LogFile
from notifications.log.protocols import Outcome
from notifications.log.records import PLACE
from tests.support import selection
from tests.support.log_scenes import LINE, Scene, Tasks, key

pytestmark = selection.once

# Written by that version: task 1's key alone (it was trimmed), a replacement by task 3, two calls of task 4, three writes of 5.
JOURNAL = Path(__file__).parent / "fixtures" / "journal-0.1"
NAME = "0123456789abcdef-log.txt"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A scene whose data folder is one of version 0.1."""
    scene = Scene(tmp_path / "scene", database=Tasks(lambda task: False))
    scene.journal.parent.mkdir(parents=True)
    scene.journal.with_name(NAME).write_bytes(JOURNAL.read_bytes())
    return scene


def text(number: int, kind: str, content: bytes, *, call: int = 0, again: int = 0, count: int = 0) -> Identity:  # noqa: PLR0913
    """A write without a key, as notifications/tasks.py names it."""
    task = key(number).task
    mark = mark_of_repetition(mark_of_text(kind, call, content), again)
    return Identity(task, mark, (call, count))


@pytest.mark.parametrize(
    ("kind", "identity"),
    [
        ("replace", text(3, "replace", b"notification for alice: hello")),
        ("append", text(4, "append", b"found query: q\n")),
        ("append", text(4, "append", b"message to bob\n", call=1)),
        ("append", text(5, "append", b"twice\n")),
        ("append", text(5, "append", b"twice\n", again=1, count=1)),
        ("append", text(5, "append", b"once\n", count=2)),
        ("append", text(1, "append", b"kept by its place\n")),
        ("append", Identity(key(1).task, mark_of_key("new"), (0, 0))),
    ],
)
def test_legacy__stands_already(scene: Scene, kind: str, identity: Identity) -> None:
    writer = scene.writer()
    assert getattr(writer, kind)(b"whatever\n", identity=identity) is Outcome.WRITTEN_BEFORE
    assert not scene.log.exists()


@pytest.mark.parametrize(
    "identity",
    [
        text(1, "append", b"kept by its place\n", count=1),
        text(4, "append", b"message to bob\n"),  # of another call
        text(5, "append", b"twice\n", again=2, count=2),
        text(5, "append", b"another\n", count=3),
    ],
)
def test_legacy__is_another_write(scene: Scene, identity: Identity) -> None:
    assert scene.writer().append(LINE, identity=identity) is Outcome.WRITTEN


def test_legacy__its_newest_replacement_is_still_the_newest(scene: Scene) -> None:
    scene.writer().append(LINE, identity=key(9))
    assert scene.writer().replace(LINE, identity=key(4)) is Outcome.SUPERSEDED


def test_legacy__is_read_once_and_left_alone(scene: Scene) -> None:
    old = scene.journal.with_name(NAME)
    scene.writer().open()
    assert old.read_bytes() == JOURNAL.read_bytes()
    old.write_bytes(b"what an old worker does with it is no concern of ours")
    assert scene.writer().append(LINE, identity=text(1, "append", b"x")) is Outcome.WRITTEN_BEFORE


def test_legacy__is_forgotten_when_its_tasks_have_ended(scene: Scene) -> None:
    scene.database = Tasks(lambda task: task == key(1).task)
    scene.writer().append(b"x" * (1 << 20), identity=key(8))
    scene.writer().append(b"x" * (1 << 20), identity=key(9))
    assert scene.writer().append(LINE, identity=text(1, "append", b"x")) is Outcome.WRITTEN
    assert scene.writer().append(LINE, identity=text(5, "append", b"once\n", count=2)) is Outcome.WRITTEN_BEFORE


def test_legacy__is_read_under_its_lock(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "LOCK_WAIT_SECONDS", 0.05)
    with scene.journal.with_name(NAME).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match=NAME):
            scene.writer().append(LINE, identity=key(9))
    assert scene.writer().append(LINE, identity=text(1, "append", b"x")) is Outcome.WRITTEN_BEFORE


OLD_RECORD = struct.Struct("<cIc24sQQQI")


def interrupted(scene: Scene, kind: bytes, state: bytes, content: bytes, size: int) -> Identity:
    """Add what a killed writer of version 0.1 left: an intent of task 7 for the log as it is."""
    status = scene.log.stat()
    place = PLACE.pack(key(7).task, 0, 0)
    body = OLD_RECORD.pack(state, 0, kind, place, status.st_dev, status.st_ino, size, len(content))[5:] + content
    with scene.journal.with_name(NAME).open("ab") as journal:
        journal.write(state + struct.pack("<I", crc32(body)) + body)
    text_of = content if kind == b"a" else content.partition(b"\0")[2]
    return text(7, "append" if kind == b"a" else "replace", text_of)


@pytest.mark.parametrize("stands", [True, False], ids=["written", "torn"])
def test_legacy__an_append_was_interrupted(scene: Scene, stands: bool) -> None:
    scene.log.write_bytes(b"before\n")
    identity = interrupted(scene, b"a", b"o", LINE, scene.log.stat().st_size)
    with scene.log.open("ab") as log:
        log.write(LINE if stands else LINE[:5])
    assert scene.writer().append(LINE, identity=identity) is (Outcome.WRITTEN_BEFORE if stands else Outcome.WRITTEN)
    assert scene.log.read_bytes() == b"before\n" + LINE


@pytest.mark.parametrize("stands", [True, False], ids=["renamed", "not renamed"])
def test_legacy__a_replacement_was_interrupted(scene: Scene, stands: bool) -> None:
    scene.log.write_bytes(b"before\n")
    content = os.fsencode(scene.folder / "moved since" / "log.txt") + b"\0" + LINE
    identity = interrupted(scene, b"r", b"y", content, scene.log.stat().st_size)
    temporary = scene.folder / ".log.txt.notifier"
    temporary.write_bytes(LINE)
    if stands:
        temporary.rename(scene.log)
    assert scene.writer().replace(LINE, identity=identity) is (Outcome.WRITTEN_BEFORE if stands else Outcome.WRITTEN)
    assert scene.log.read_bytes() == LINE


def test_legacy__a_folder_without_one(tmp_path: Path) -> None:
    writer = LogFile(tmp_path / "log.txt", journal_path=tmp_path / "data" / "journal" / "log")
    assert writer.append(LINE, identity=key(1)) is Outcome.WRITTEN
