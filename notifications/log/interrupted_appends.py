"""Find out from the log's bytes whether an append happened whose writer was killed or stopped by an exception."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from notifications.log.disk import read_all
from notifications.log.records import File, Intent

LOOK = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
SEARCH_WINDOW = 1 << 20  # bytes after the noted size that are searched for the text: other programs may append as well


def stands_appended(intent: Intent, log: Path, *, since: int, durable: bool) -> bool:
    """Whether the intent's text stands in the log, or in the file to which it was rotated. Cut off a torn text.

    `log`: the log's path, without symbolic links. `since`: when the intent was noted (in ns, by the file system's clock).
    """
    return any(_stands(path, intent, durable=durable) for path in places(intent.file, log, since=since))


def is_same(status: os.stat_result, file: File) -> bool:
    """Whether this is the file that the intent names."""
    return (status.st_dev, status.st_ino) == file[:2]


def places(file: File, log: Path, *, since: int) -> list[Path]:
    """The paths at which an intent's file may be now: the log's path, or another name in the same folder.

    When the file is gone, empty, or shorter than the noted size (logrotate's `copytruncate`): the copies made since.
    """
    names: list[str] = []
    with suppress(OSError):  # the service may enter the folder, but not list it
        names = os.listdir(log.parent)
    copies: list[Path] = []
    for path in [log, *(log.with_name(name) for name in names if name != log.name)]:
        with suppress(OSError):
            status = path.stat()
            if is_same(status, file) and status.st_size >= (file[2] or 1):
                return [path]
            if path != log and path.name.startswith(log.name) and status.st_mtime_ns >= since:
                copies.append(path)
    return copies


def _stands(path: Path, intent: Intent, *, durable: bool) -> bool:
    try:
        log = os.open(path, LOOK)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(log).st_mode):
            return False
        text, (_, _, size) = intent.text, intent.file
        rest = read_all(log, len(text) + SEARCH_WINDOW, size)
        if rest.startswith(text) or (text.endswith(b"\n") and b"\n" + text in rest):
            return True
        if rest and _is_torn(rest, text, durable=durable) and os.fstat(log).st_size == size + len(rest):
            with suppress(OSError):  # the file may have the attribute append-only
                os.ftruncate(log, size)
        return False
    finally:
        os.close(log)


def _is_torn(rest: bytes, text: bytes, *, durable: bool) -> bool:
    """Whether `rest`, all bytes after the noted size, is a beginning of the text whose writer was stopped."""
    if durable and len(rest) <= len(text):
        rest = rest.rstrip(b"\0")  # a power cut may leave the new length without the bytes
    return len(rest) < len(text) and text.startswith(rest)
