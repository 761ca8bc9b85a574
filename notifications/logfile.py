"""Write to a log file that others may read, rotate or delete at any time. Knows no Django."""

import os
import stat
import tempfile
from pathlib import Path

# Opened anew for each write, so that a log that was renamed, deleted or truncated in between simply goes on.
# O_NONBLOCK: a FIFO without a reader is an error at once (ENXIO), not a worker that hangs; files don't mind it.
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
MODE = 0o666  # less the umask, as for open()


def append(path: Path, text: bytes) -> None:
    """Add `text` at the end of the file, in one write(2): no other appender's bytes come between.

    Raises OSError when the file can't be opened or took only a part of the text; that part is then cut off again.
    """
    log = os.open(path, APPEND, MODE)
    try:
        written = os.write(log, text)
        if written < len(text):
            if stat.S_ISREG(os.fstat(log).st_mode):
                os.ftruncate(log, os.lseek(log, 0, os.SEEK_CUR) - written)
            raise OSError(f"{path} took only {written} of {len(text)} bytes")
    finally:
        os.close(log)


def replace(path: Path, text: bytes) -> None:
    """Put `text` in the place of all that the file holds. A reader sees the old text or the new one, whole.

    A symbolic link is followed; the file's permissions and owner are kept. What is no regular file (a FIFO, a device)
    is written to instead. Raises OSError.
    """
    path = path.resolve()
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    if before and not stat.S_ISREG(before.st_mode):
        return append(path, text)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            if before:
                os.fchown(handle, before.st_uid, before.st_gid)
                os.fchmod(handle, stat.S_IMODE(before.st_mode))
            else:
                os.fchmod(handle, MODE & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
