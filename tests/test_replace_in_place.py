"""Replacing a log over which nothing can be renamed: a mount point of its own, or a folder that takes no new names."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import selection
from tests.support.log_scenes import KEY, LINE, Event, Scene, Stage, mounted, nothing, same_text
from tests.support.log_writer import fails_in_each, full_disk, killed_before_each_call, killed_in_each_write

pytestmark = selection.once


@pytest.fixture
def fixed_log(tmp_path: Path) -> Iterator[Path]:
    """A log that can be written to, and not be renamed."""
    kept, log = tmp_path / "kept.txt", tmp_path / "fixed" / "log.txt"
    log.parent.mkdir()
    kept.touch()
    log.touch()
    if os.geteuid():
        log.parent.chmod(0o555)
        yield log
        log.parent.chmod(0o755)
        return
    with mounted("--bind", kept, at=log):
        yield log


class FixedStage(Stage):
    """Runs that share a log, since they can't each have one."""

    def __init__(self, folder: Path, log: Path, before: bytes) -> None:
        super().__init__(folder)
        self.log = log
        self.before = before

    def set(self, number: int) -> Scene:
        """A scene with the same log and a journal of its own."""
        self.scene.close()
        self.scene = Scene(self.folder / f"run-{number}")
        self.scene.log = self.log
        self.log.write_bytes(self.before)
        return self.scene


SHORT, LONG = b"short", b"a much longer text\n" * 3
LENGTHS = pytest.mark.parametrize("before", selection.slow_after(1, [b"", SHORT, LONG]), ids=["empty", "short", "long"])


@pytest.mark.parametrize(
    ("event", "before"), selection.slow_after(1, [(nothing, LONG), (nothing, SHORT), (same_text, LONG), (same_text, b"")])
)
def test_replace__in_place_and_killed_before_each_call(tmp_path: Path, fixed_log: Path, event: Event, before: bytes) -> None:
    stage = FixedStage(tmp_path, fixed_log, before)
    for _ in killed_before_each_call(stage.replace):
        assert_replaced_in_place(stage, event)


@LENGTHS
def test_replace__in_place_and_killed_in_each_write(tmp_path: Path, fixed_log: Path, before: bytes) -> None:
    stage = FixedStage(tmp_path, fixed_log, before)
    for _ in killed_in_each_write(stage.replace, step=1 if before == SHORT else 7):
        assert_replaced_in_place(stage, nothing)


def assert_replaced_in_place(stage: FixedStage, event: Event) -> None:
    """The next writer, whoever it is, finds the old text or the new one, and the retry leaves the new one."""
    scene, before = stage.scene, stage.before
    event(scene)
    for _ in range(2):
        scene.writer().replace(LINE, identity=KEY)
        assert fixed_text(scene) in ((LINE,) if event is nothing else (before + LINE, LINE + LINE))
        assert not list(stage.log.parent.glob(".*.notifier")), "a stray temporary file"


def fixed_text(scene: Scene) -> bytes:
    """The log's bytes."""
    return scene.log.read_bytes()


@LENGTHS
def test_replace__in_place_on_a_full_disk(tmp_path: Path, fixed_log: Path, before: bytes) -> None:
    stage = FixedStage(tmp_path, fixed_log, before)
    for _ in fails_in_each(stage.replace, full_disk):
        assert fixed_text(stage.scene) == before
        stage.scene.writer().replace(LINE, identity=KEY)
        assert fixed_text(stage.scene) == LINE
