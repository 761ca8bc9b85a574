"""What the system's calls leave to do: they may read and write less than asked, and don't wait for the disk."""

import os
from pathlib import Path

NEW_FILE_MODE = 0o666  # less the umask, as for open()


def read_all(fd: int, length: int, offset: int) -> bytes:
    """The bytes from `offset`: `length` of them, or fewer where the file ends. One pread(2) may return less."""
    found = os.pread(fd, length, offset)
    while len(found) < length and (more := os.pread(fd, length - len(found), offset + len(found))):
        found += more
    return found


def write_all(fd: int, text: bytes, offset: int) -> None:
    """Write to a regular file, whole. Raises OSError: the second try tells why the first one stopped short."""
    written = os.pwrite(fd, text, offset) if text else 0
    while written < len(text):
        written += os.pwrite(fd, text[written:], offset + written)


def write_once(fd: int, text: bytes) -> None:
    """Write to a FIFO or a device, in one write(2). Raises OSError when that takes only a part of the text."""
    if (written := os.write(fd, text)) < len(text):
        raise OSError(f"It took only {written} of {len(text)} bytes")


def sync_folder(path: Path) -> None:
    """Have a folder's entries on the disk: a file's own fsync(2) doesn't do that."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
