"""What the service's processes print, on its way to the operator. Nothing that happens there holds anybody up."""

import os
import socket
import stat
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import suppress

CAPACITY = 1 << 20  # bytes that wait while nobody reads them; of what comes then, whole lines are dropped
AT_ONCE = 1 << 16  # bytes that are read at a time, and the longest piece of a line that has no end yet
WRITTEN_AT_ONCE = 1 << 18  # bytes that are written before the sources are read again


class Source:
    """A pipe that programs write to, one after the other: its write end stays open while none of them runs."""

    def __init__(self) -> None:
        self.descriptor, self.end = os.pipe()
        os.set_blocking(self.descriptor, False)
        self._unended = b""

    def read_lines(self) -> list[bytes]:
        """The lines that were written since the last time; raises nothing, and never waits."""
        try:
            *lines, rest = (self._unended + os.read(self.descriptor, AT_ONCE)).split(b"\n")
        except BlockingIOError:
            return []
        lines = [line + b"\n" for line in lines]
        if len(rest) >= AT_ONCE:
            lines, rest = [*lines, rest], b""
        self._unended = rest
        return lines

    def read_last(self) -> list[bytes]:
        """What is left, once no program runs any more."""
        lines = []
        while more := self.read_lines():
            lines += more
        return [*lines, *([self._unended] if self._unended else [])]


class Output:
    """Lines that wait for their turn, and the place that they go to."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor`: where the output goes. Its flags stay as they are: they are the shell's as well."""
        self.descriptor, self._write = _without_waiting(descriptor)
        self._waiting: deque[tuple[bytes, int]] = deque()  # each with the number of lines that it stands for
        self._size = 0
        self._dropped = 0  # lines, after those that wait
        self._is_full = False
        self._is_in_line = False  # whether the last line that was written has no end

    @property
    def waits(self) -> bool:
        """Whether there is something to write."""
        return bool(self._waiting)

    def add(self, line: bytes) -> None:
        """Write a line when it can be written; drop it when too much waits."""
        self._is_full = self._size > (CAPACITY // 2 if self._is_full else CAPACITY - len(line))
        if self._is_full:
            self._dropped += 1
            return
        self._tell_of_dropped()
        self._append(line, 1)

    def _append(self, line: bytes, count: int) -> None:
        self._waiting.append((line, count))
        self._size += len(line)

    def _tell_of_dropped(self) -> None:
        if self._dropped:
            ends = self._waiting[-1][0].endswith(b"\n") if self._waiting else not self._is_in_line
            self._append((b"" if ends else b"\n") + b"%d lines dropped\n" % self._dropped, self._dropped)
            self._dropped = 0

    def flush(self) -> None:
        """Write what can be written now."""
        left = WRITTEN_AT_ONCE
        while left > 0:
            if not self._waiting:
                if not self._dropped:
                    return
                self._tell_of_dropped()
            line, count = self._waiting.popleft()
            try:
                written = self._write(line)
            except BlockingIOError:
                self._waiting.appendleft((line, count))
                return
            except OSError:  # the disk is full, the terminal is closed, nobody reads the pipe any more
                self._dropped += count + sum(lines for _, lines in self._waiting)
                self._waiting.clear()
                self._size = 0
                return
            self._size -= written
            left -= written
            self._is_in_line = not line[:written].endswith(b"\n")
            if written < len(line):
                self._waiting.appendleft((line[written:], count))


def _without_waiting(descriptor: int) -> tuple[int, Callable[[bytes], int]]:
    """A descriptor that leads to the same place, and what writes to it without waiting.

    Opening it again gives it flags of its own (proc(5), /proc/[pid]/fd). A socket, as systemd gives, can't be opened again,
    but has a flag for each write. Where opening is refused (another user's terminal), a `cat` waits in our place.
    """
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
        own = os.open(f"/proc/self/fd/{descriptor}", flags)
        return own, lambda line: os.write(own, line)
    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        stream = socket.socket(fileno=os.dup(descriptor))
        return stream.fileno(), lambda line: stream.send(line, socket.MSG_DONTWAIT)
    read_end, own = os.pipe()
    subprocess.Popen(["cat"], stdin=read_end, stdout=descriptor, start_new_session=True)  # noqa: S607 - any cat will do
    os.close(read_end)
    os.set_blocking(own, False)
    return own, lambda line: os.write(own, line)
