"""A pipe on which a task's threads and forked children send notes to the worker. The worker keeps them in the history."""

import os
import struct
from contextlib import suppress

from durable_queue.task.pipes import WriteEnd

_HEAD = struct.Struct("=32sH")
_LONGEST = 400  # bytes of a text; a note is written whole or not at all up to 4096 (pipe(7), PIPE_BUF)
_READ = 1 << 16


class Notes:
    """One worker's pipe. Children that its tasks fork write to the same one."""

    def __init__(self) -> None:
        """Open it. Raises OSError."""
        self._out, end = os.pipe()
        for pipe in (self._out, end):
            os.set_blocking(pipe, False)
        self._in = WriteEnd(end)

    def send(self, task_id: str, text: str) -> None:
        """Say something about a task. Never raises, never waits: a note is lost when thousands wait to be read."""
        content = text.encode("utf-8", "replace")[:_LONGEST]
        with suppress(OSError):
            self._in.write(_HEAD.pack(task_id.encode("ascii", "replace"), len(content)) + content)

    def read(self) -> list[tuple[str, str]]:
        """(task id, text) of each note that was told since the last time."""
        try:
            told = os.read(self._out, _READ)
        except OSError:  # there is nothing; or a task has closed the pipe
            return []
        found, at = [], 0
        while at + _HEAD.size <= len(told):
            task_id, length = _HEAD.unpack_from(told, at)
            at += _HEAD.size + length
            found.append((task_id.rstrip(b"\0").decode(), told[at - length : at].decode("utf-8", "replace")))
        return found
