"""A file that only one thread of one process uses at a time: the file itself is the lock."""

import fcntl
import itertools
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from notifications.log.disk import sync_folder, write_all

FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
LOCK_WAIT_SECONDS = 8.0  # then the write fails; the supervisor kills a stopped worker after 5
LOCK_TRIES_WITH_YIELD = 50  # tries with only a yield in between: a holder needs about 10 µs
LOCK_PAUSE_SECONDS = (0.00005, 0.001)  # after those, the shortest and the longest pause between tries
THREAD_PAUSE_SECONDS = 0.001  # between the tries of a thread that waits for another one of its process
PATIENCE_SECONDS = 0.01  # once a thread has waited for so long, others let it go first


class LockedFile:
    """The file at a path, which other processes may replace or delete. The threads of a process share one object."""

    def __init__(self, path: Path, *, durable: bool, lock_wait: float) -> None:
        """`durable`: a new file's name is on the disk before `lock` returns. `lock_wait`: seconds to wait for the lock."""
        self.path = path
        self.fd = -1
        self.openings = 0  # how often it was opened; after another opening, it may be another file
        self.threads = threading.RLock()
        self._next = threading.RLock()  # held by the one thread, of those that wait for `threads`, that tries to take it
        self._waits_since = 0.0  # since when (monotonic) that one has tried; 0.0 while none does
        self._durable = durable
        self._lock_wait = lock_wait
        self._path_name = os.fspath(path)
        self._device_and_inode = (0, 0)  # of the open file
        _locked_files.add(self)

    def __del__(self) -> None:
        self.close()

    def lock(self) -> int:
        """Open the file if necessary, lock it, and return its size.

        Raises TimeoutError and OSError, and may hold the lock then: call `let_go` in a `finally` that covers this call.
        """
        # First the lock between threads: flock(2) belongs to the open file, which they share.
        if not self.threads.acquire(blocking=False):
            self._wait_for_thread()
        while True:
            if not self._is_open():
                self._open()
            if not self._is_locked_now():
                self._wait_for_lock()
            size = self._size_in_place()
            if size is not None:
                return size
            self.close()  # another process has replaced or deleted it

    def let_go(self) -> None:
        """Release the lock, if this thread holds it."""
        # The thread may hold it more than once: after `replace_with`, or when an exception prevented an earlier release.
        while _is_owned(self.threads):
            try:
                if self.fd >= 0:
                    fcntl.flock(self.fd, fcntl.LOCK_UN)
            finally:
                self.threads.release()
        if 0.0 < self._waits_since < time.monotonic() - PATIENCE_SECONDS:
            time.sleep(2 * THREAD_PAUSE_SECONDS)

    def replace_with(self, content: bytes) -> None:
        """Put a new file in the place of this one, and close this one, which releases its lock."""
        temporary = self.path.with_name(f"{self.path.name}.new")
        fd = os.open(temporary, FLAGS | os.O_TRUNC, 0o600)
        try:
            write_all(fd, content, 0)
            if self._durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, self.path)
        if self._durable:
            sync_folder(self.path.parent)
        self.close()

    def close(self) -> None:
        """Close the file, which releases the lock between processes."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: the inherited file shares the parent's lock, and a thread that held `threads` is not here."""
        self.threads, self._next = threading.RLock(), threading.RLock()
        self._waits_since = 0.0
        self.close()

    def _is_open(self) -> bool:
        """Whether the descriptor is still this file's: a task may have closed it, and its number may be another file's."""
        if self.fd >= 0:
            try:
                ours = os.fstat(self.fd)
            except OSError:
                pass
            else:
                if (ours.st_dev, ours.st_ino) == self._device_and_inode:
                    return True
            self.fd = -1  # not closed: it belongs to other code now
        return False

    def _open(self) -> None:
        self.openings += 1  # before the opening, so that an exception can't come between the two
        try:
            self.fd = os.open(self.path, FLAGS, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.fd = os.open(self.path, FLAGS, 0o600)
        status = os.fstat(self.fd)
        self._device_and_inode = (status.st_dev, status.st_ino)
        if self._durable:
            sync_folder(self.path.parent)
            sync_folder(self.path.parent.parent)

    def _wait_for_thread(self) -> None:
        """Take the lock between threads, or try again until the time is up: one thread at a time tries, the others wait for it.

        If all waited in the lock itself, each release would wake one that finds the lock taken again by the thread that runs,
        and has cost two switches: with forty threads a line took 2.8 times the processor time.
        """
        deadline = time.monotonic() + self._lock_wait
        try:
            if self._next.acquire(timeout=self._lock_wait):
                self._waits_since = time.monotonic()
            while not (_is_owned(self._next) and self.threads.acquire(blocking=False)):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.path} was locked by another thread for {self._lock_wait:g} s")
                time.sleep(THREAD_PAUSE_SECONDS)
        finally:
            if _is_owned(self._next):
                self._waits_since = 0.0
                self._next.release()

    def _wait_for_lock(self) -> None:
        """Try again until the time is up: flock(2) has no timeout."""
        deadline = time.monotonic() + self._lock_wait
        for pause in _pauses():
            if pause:
                time.sleep(pause)
            else:
                os.sched_yield()
            if self._is_locked_now():
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.path} was locked by another process for {self._lock_wait:g} s")

    def _is_locked_now(self) -> bool:
        """Lock the file unless another process holds the lock. Return whether this process has it now."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _size_in_place(self) -> int | None:
        """The file's size; None when the open file is not the one at its path, even if it still has a name elsewhere."""
        try:
            there = os.stat(self._path_name)
        except FileNotFoundError:
            return None
        return there.st_size if (there.st_dev, there.st_ino) == self._device_and_inode else None


def _is_owned(lock: threading.RLock) -> bool:
    """Whether the calling thread holds it."""
    owned: bool = lock._is_owned()  # type: ignore[attr-defined]
    return owned


def _pauses() -> Iterator[float]:
    """The seconds between one try and the next, without end."""
    yield from itertools.repeat(0.0, LOCK_TRIES_WITH_YIELD)
    pause, longest = LOCK_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, longest)


_locked_files: "weakref.WeakSet[LockedFile]" = weakref.WeakSet()


def _after_fork() -> None:
    for file in tuple(_locked_files):
        file.after_fork()


os.register_at_fork(after_in_child=_after_fork)
