"""A log and the events that may happen to it, for the tests of the promise that each write stands in it once."""

import mmap
import os
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from notifications.log.identity import Identity, mark_of_key
from notifications.log.log_file import LogFile
from notifications.log.protocols import Outcome
from tests.support.log_writer import Job
from tests.support.selection import missing


def key(number: int, place: int = 0) -> Identity:
    """The identity of a write. A task with a greater number was enqueued later."""
    return Identity((number << 80 | 0x7 << 76).to_bytes(16, "big"), mark_of_key(f"{place}"))


@dataclass
class Tasks:
    """The tasks' database, as far as the log needs it (`notifications.log.protocols.Database`)."""

    has_ended: Callable[[bytes], bool]  # of a task's id
    name: bytes = b"database"
    looks: int = 0

    def __post_init__(self) -> None:
        self._trims = mmap.mmap(-1, 8)  # which forked children share, as they would a database

    @property
    def trims(self) -> int:
        """The number of the last trim that was noted."""
        return int.from_bytes(self._trims[:8])

    @trims.setter
    def trims(self, number: int) -> None:
        self._trims[:8] = number.to_bytes(8)

    def is_ours_alone(self) -> bool:
        return False

    def id_for(self, journal: str) -> bytes:
        return self.name

    def ended(self, tasks: Collection[bytes]) -> set[bytes]:
        self.looks += 1
        return {task for task in tasks if self.has_ended(task)}

    def note_trim(self, journal: str, number: int) -> int:
        self.trims = max(self.trims + 1, number)
        return self.trims

    def catch_up(self, journal: str, number: int) -> bool:
        is_older, self.trims = self.trims < number, max(self.trims, number)
        return is_older


@dataclass
class Scene:
    """A folder with a log, its journal, and the files that a rotation makes of the log."""

    folder: Path
    durable: bool = False
    lock_wait: float = 5.0
    database: Tasks | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.log = self.folder / "log.txt"
        self.writers = WeakSet[LogFile]()

    def writer(self) -> LogFile:
        """A writer that has read nothing yet, as in a new process."""
        writer = LogFile(
            self.log, journal_path=self.journal, durable=self.durable, lock_wait=self.lock_wait, database=self.database
        )
        self.writers.add(writer)
        return writer

    def close(self) -> None:
        """Let go of the log, as the end of this process would."""
        for writer in list(self.writers):
            writer.close()

    @property
    def journal(self) -> Path:
        """The journal's path."""
        return self.folder / "data" / "journal" / "log"

    def archives(self) -> list[Path]:
        """The rotated logs, the oldest first."""
        return sorted(path for path in self.folder.glob("*log.txt*") if path != self.log and path.name[0] != ".")

    def next_archive(self) -> Path:
        """The name for the next rotated log."""
        return self.folder / f"log.txt.{len(self.archives()):03}"

    def text(self) -> bytes:
        """All text that was written to the log and is still there."""
        return b"".join(path.read_bytes() for path in [*self.archives(), self.log] if path.exists())


FIRST, LINE = b"message to alice\n", b"message to bob\n"
EARLIER, KEY, LATER = key(1), key(2), key(3)

Event = Callable[[Scene], None]


def nothing(scene: Scene) -> None:
    """Nothing: the retry is the next event."""


def same_text(scene: Scene) -> None:
    """Another task appends the very same text before the retry of the killed task."""
    assert scene.writer().append(LINE, identity=LATER) is Outcome.WRITTEN


def foreign_text(scene: Scene) -> None:
    """Another program appends, without the lock."""
    with scene.log.open("ab") as log:
        log.write(b"of another program\n")


def rotation(scene: Scene) -> None:
    """Rotate as logrotate does by default."""
    if scene.log.exists():
        scene.log.rename(scene.next_archive())


def rotation_with_create(scene: Scene) -> None:
    """Rotate with logrotate's `create`; another program is the first to write."""
    rotation(scene)
    foreign_text(scene)


def rotation_to_another_name(scene: Scene) -> None:
    """Rotate to a name that does not begin with the log's name."""
    if scene.log.exists():
        scene.log.rename(scene.folder / "1-log.txt")


def copytruncate(scene: Scene) -> None:
    """Rotate with logrotate's `copytruncate`."""
    if scene.log.exists():
        scene.next_archive().write_bytes(scene.log.read_bytes())
        os.truncate(scene.log, 0)


def second_rotation(scene: Scene) -> None:
    """Rotate twice, the first time by copying."""
    copytruncate(scene)
    rotation(scene)


EVENTS = [
    nothing,
    same_text,
    foreign_text,
    rotation,
    rotation_with_create,
    rotation_to_another_name,
    copytruncate,
    second_rotation,
]


@contextmanager
def mounted(*arguments: str | Path, at: Path) -> Iterator[None]:
    """A mount that lasts as long as the context."""
    if subprocess.run(["/bin/mount", *arguments, at], check=False, capture_output=True).returncode:
        missing("the right to mount file systems")
    try:
        yield
    finally:
        subprocess.run(["/bin/umount", at], check=True)


class Stage:
    """A new scene for each run, with an empty log or with some text in it."""

    def __init__(self, folder: Path, *, durable: bool = False, empty: bool = False) -> None:
        self.folder = folder
        self.durable = durable
        self.empty = empty
        self.scene = Scene(folder / "unused")

    def set(self, number: int) -> Scene:
        """The scene of this run."""
        self.scene = Scene(self.folder / f"run-{number}", durable=self.durable)
        if not self.empty:
            self.scene.writer().append(FIRST, identity=EARLIER)
        return self.scene

    def append(self, number: int) -> Job:
        """Append: the write that is to be killed."""
        scene = self.set(number)
        return lambda: scene.writer().append(LINE, identity=KEY)

    def replace(self, number: int) -> Job:
        """Replace: the write that is to be killed."""
        scene = self.set(number)
        return lambda: scene.writer().replace(LINE, identity=KEY)
