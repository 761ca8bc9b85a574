"""Complete reads and writes: a system call may read or write less than asked, and does not wait for the disk."""

import os
from pathlib import Path

NEW_FILE_MODE = 0o666  # minus the umask, as for open()


def read_all(fd: int, length: int, offset: int) -> bytes:
    """Read `length` bytes from `offset`, or fewer where the file ends. A single pread(2) may return less."""
    found = os.pread(fd, length, offset)
    while len(found) < length and (more := os.pread(fd, length - len(found), offset + len(found))):
        found += more
    return found


def write_all(fd: int, text: bytes, offset: int) -> None:
    """Write all of `text` to a regular file. Raises OSError: after a short write, the next one reports the reason."""
    written = os.pwrite(fd, text, offset) if text else 0
    while written < len(text):
        written += os.pwrite(fd, text[written:], offset + written)


def write_once(fd: int, text: bytes) -> None:
    """Write to a FIFO or a device in a single write(2). Raises OSError when it takes only a part of the text."""
    if (written := os.write(fd, text)) < len(text):
        raise OSError(f"It took only {written} of {len(text)} bytes")


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk: fsync(2) of a file does not include its name in the folder."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
