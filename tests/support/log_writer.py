"""Writers of a log, in processes of their own. They are struck at a chosen point of their work."""

import errno
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType
from typing import Any, NoReturn

from notifications.log import (
    disk,
    identity,
    interrupted_appends,
    journal,
    known_writes,
    locked_file,
    log_file,
    owner,
    records,
    replacement,
    trimming,
)

Job = Callable[[], object]

WRITER = (
    disk,
    identity,
    interrupted_appends,
    journal,
    known_writes,
    locked_file,
    log_file,
    owner,
    records,
    replacement,
    trimming,
)
WATCHED = {module.__file__ for module in WRITER}
SYSTEM = {"posix", "fcntl"}  # modules by which the writer calls the operating system
BROKEN = 4  # exit code


def kill() -> None:
    """Kill this process, as the out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    """Stop this process until another process continues it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def start(job: Job, *, prepare: Callable[[], object] = lambda: None) -> int:
    """Run `job` in a forked process, whose id is returned. It exits with 0 when it gets through."""
    pid = os.fork()
    if pid:
        return pid
    gc.disable()  # the lines of a writer that is cleared away would be counted as well
    try:
        prepare()
        job()
        sys.settrace(None)
        sys.setprofile(None)
        os._exit(0)
    except BaseException:
        sys.settrace(None)
        sys.setprofile(None)
        traceback.print_exc()
    finally:
        os._exit(BROKEN)


def run_here(job: Job, *, prepare: Callable[[], object]) -> None:
    """Run `job` in this process, which goes on after it: no kill is meant for it."""
    write, pwrite = os.write, os.pwrite
    gc.disable()
    try:
        prepare()
        job()
    finally:
        sys.settrace(None)
        os.write, os.pwrite = write, pwrite
        gc.enable()


def end_of(pid: int) -> int:
    """Wait for a process; return its exit code, or the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def completes(job: Job, *, prepare: Callable[[], object] = lambda: None) -> bool:
    """Whether a process completed `job` before it was killed."""
    code = end_of(start(job, prepare=prepare))
    assert code in (0, -signal.SIGKILL), f"the writer failed with {code}"
    return code == 0


def strike_at_line(number: int, strike: Callable[[], None]) -> Callable[[], None]:
    """A setup by which a process calls `strike` before it executes the writer's n-th line, counted as it runs."""
    executed = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal executed
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            executed += 1
            if executed == number:
                strike()
        return trace

    return lambda: sys.settrace(trace)


def strike_before_call(number: int, strike: Callable[[], None]) -> Callable[[], None]:
    """A setup by which a process calls `strike` before its n-th call of the operating system."""
    calls = 0

    def trace(_: FrameType, event: str, called: Any) -> None:
        nonlocal calls
        if event == "c_call" and called.__module__ in SYSTEM:
            calls += 1
            if calls == number:
                strike()

    return lambda: sys.setprofile(trace)


def strike_in_write(number: int, length: int, strike: Callable[[], None]) -> Callable[[], None]:
    """A setup by which a process calls `strike` in the write with this number, once `length` bytes are in the file."""
    calls = 0

    def cut_short(write: Callable[..., int]) -> Callable[..., int]:
        def cut(fd: int, text: bytes, *offset: int) -> int:
            nonlocal calls
            calls += 1
            if calls != number or length > len(text):
                return write(fd, text, *offset)
            write(fd, text[:length], *offset)
            strike()
            return length

        return cut

    def prepare() -> None:
        os.write, os.pwrite = cut_short(os.write), cut_short(os.pwrite)

    return prepare


def killed_before_each_call(job: Callable[[int], Job]) -> Iterator[int]:
    """Yield after each run of `job(n)` that was killed before its n-th call of the operating system, until one completes.

    Whoever kills it between two calls finds the same outside of the process as before the second.
    """
    for number in count(1):
        if completes(job(number), prepare=strike_before_call(number, kill)):
            assert number > 10, "nothing was watched"
            return
        yield number


def killed_in_each_write(job: Callable[[int], Job], *, step: int = 1) -> Iterator[int]:
    """Yield after each run of `job(n)` that was killed in a write: after each (second, third …) number of its bytes."""
    runs = count(1)
    for number in count(1):
        for length in count(0, step):
            run = next(runs)
            if completes(job(run), prepare=strike_in_write(number, length, kill)):
                break
            yield run
        if not length:
            return


def full_disk(number: int, length: int) -> Callable[[], None]:
    """A setup by which the disk is full in the write with this number (of those that need room), after so many bytes."""
    calls = 0

    def with_limit(write: Callable[..., int]) -> Callable[..., int]:
        def limited(fd: int, text: bytes, *offset: int) -> int:
            nonlocal calls
            if offset and offset[0] + len(text) <= os.fstat(fd).st_size:
                return write(fd, text, *offset)
            calls += 1
            if calls < number or (calls == number and length >= len(text)):
                calls -= calls == number  # there is room after all: nothing fails any more
                return write(fd, text, *offset)
            if calls == number and length:
                return write(fd, text[:length], *offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return limited

    def prepare() -> None:
        os.write, os.pwrite = with_limit(os.write), with_limit(os.pwrite)

    return prepare


def broken_disk(number: int) -> Callable[[], None]:
    """A setup by which the write with this number fails."""

    def strike() -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    return strike_in_write(number, 0, strike)


def fails_in_each(job: Callable[[int], Job], fault: Callable[[int, int], Callable[[], None]]) -> Iterator[int]:
    """Yield after each run of `job(n)` that ended in an OSError: with `fault` in each write, after each number of bytes."""
    runs = count(1)
    for number in count(1):
        for length in count():
            run = next(runs)
            try:
                run_here(job(run), prepare=fault(number, length))
            except OSError:
                yield run
            else:
                break
        if not length:
            return
