"""Tasks that write as users' tasks do, and note their writes. tests/support/chaos_writes.py compares the notes with the log.

Each of them may run any number of times: they fail at random, and their workers are killed.
"""

import asyncio
import json
import os
import random
import signal
import threading
import time
import uuid
from functools import partial
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from notifications.tasks import write_log

# Lines that take many pages, so that a kill may tear them; notes and messages have the short form.
LONG, SHORT = "x" * 100_000, "…"


def folder() -> Path:
    """The folder where tasks note the writes that they ask for, and set marks for their next attempt."""
    path = Path(settings.DATA_DIR) / "asked"
    path.mkdir(parents=True, exist_ok=True)
    return path


class Note(NamedTuple):
    """A note that a write is asked for, or that it is done."""

    attempt: str
    call: int
    key: str | None
    text: str
    is_done: bool


class Writer:
    """One attempt at one call of a task. It makes a note before each write, and another one after it."""

    def __init__(self, task: int, call: int = 0) -> None:
        """`task`: its number among those of the scenario. `call`: the index of the call, as the task was queued."""
        self._task, self._call = task, call
        self._attempt = uuid.uuid4().hex

    def write(self, text: str, key: str | None = None) -> None:
        """Write a line. It begins with the task's number: no other task's line looks like it."""
        self.write_of_all(f"{self._task} {text}", key)

    def write_of_all(self, text: str, key: str | None = None) -> None:
        """Write a line that other tasks write too."""
        note = Note(self._attempt, self._call, key, f"{text}\n", is_done=False)
        self._keep(note)
        write_log(note.text.replace(SHORT, LONG), key=key)
        self._keep(note._replace(is_done=True))

    def mark(self, what: str) -> bool:
        """Mark something for later attempts; return whether it was not marked before."""
        try:
            self._path(what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def has_mark(self, what: str) -> bool:
        """Whether an attempt has marked this."""
        return self._path(what).exists()

    def _path(self, what: str) -> Path:
        return folder() / f"{self._task}-{what}"

    def _keep(self, note: Note) -> None:
        """Append a note in one write, with an end of line on both sides: a note torn by a kill spoils no other note."""
        file = os.open(folder() / f"{self._task}.notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(file, f"\n{json.dumps(note)}\n".encode())
        finally:
            os.close(file)


def notes_of(task: int) -> list[Note]:
    """The notes of a task's attempts, in the order of time."""
    notes = []
    for line in (folder() / f"{task}.notes").read_text().splitlines():
        try:
            notes.append(Note(*json.loads(line)))
        except ValueError:
            continue  # empty, or torn by a kill: before the write, or after one of which nobody knows then that it was done
    return notes


def stumble(share: float = 0.1) -> None:
    """Take a while, and fail at random."""
    time.sleep(random.random() * 0.005)
    if random.random() < share:
        raise RuntimeError("it fails at random")


# One call.


def plain(task: int, call: int) -> None:
    """Write the same text in each call of a request."""
    Writer(task, call).write("plain")


def branch_by_mark(task: int) -> None:
    """Take one branch in the first attempt, another one in the later ones."""
    writer = Writer(task)
    if writer.mark("failed"):
        writer.write("failed")
        raise RuntimeError("the first attempt fails")
    writer.write("done")


def branch_at_random(task: int) -> None:
    """Take one branch or the other, whatever the earlier attempts have done."""
    writer = Writer(task)
    writer.write("begun")
    if random.random() < 0.3:
        writer.write("failed")
        raise RuntimeError("this branch fails")
    writer.write("done")
    stumble()


def resume(task: int, *, equal: bool, keyed: bool) -> None:
    """Go on where the last attempt has stopped. Equal texts without keys give fewer lines than items, as documented."""
    writer = Writer(task)
    for item in range(5):
        if not writer.has_mark(f"item-{item}"):
            writer.write("sent" if equal else f"sent {item}", f"item {item}" if keyed else None)
            stumble()
            writer.mark(f"item-{item}")


def shuffle(task: int) -> None:
    """Write in another order in each attempt, and fail anywhere."""
    writer = Writer(task)
    for item in random.sample(range(5), 5):
        writer.write(f"item {item}")
        stumble(0.05)


def repeat(task: int, call: int) -> None:
    """Write one text, another number of times in each attempt, in each call of a request."""
    writer = Writer(task, call)
    for _ in range(random.randint(1, 10)):
        writer.write("again")
        if random.random() < 0.3:
            writer.write("beside")
    stumble()


def die(task: int) -> None:
    """Be killed at a random moment of the writes, by a thread. It runs while the writes wait for the system."""
    writer = Writer(task)
    if writer.mark("killed"):
        threading.Timer(random.random() * 0.002, os.kill, (os.getpid(), signal.SIGKILL)).start()
    for number in range(20):
        writer.write("dying" if number % 5 else f"dying {SHORT}", f"{number}" if number % 2 else None)


def stamp(task: int) -> None:
    """Write texts that change in each attempt, under keys."""
    writer = Writer(task)
    for key in random.sample(("first", "second"), 2):
        writer.write(f"{key} at {time.monotonic_ns()}", key)
        stumble()


def mix(task: int) -> None:
    """Write one text without a key, with one, and with another one."""
    writer = Writer(task)
    keys = (None, "one", "another")
    for key in random.sample(keys, len(keys)):
        writer.write("mixed", key)
        stumble(0.05)


def share(task: int, call: int) -> None:
    """Write texts that other tasks write too, under keys that they use too."""
    writer = Writer(task, call)
    writer.write_of_all("for all")
    writer.write_of_all("for all, by key", "same")
    stumble()
    writer.write_of_all("for all")


# Threads that carry the context, and children.


async def gather(task: int) -> None:
    """Write equal and different texts, all at once."""
    writer = Writer(task)
    texts = ["gathered", "gathered", "gathered", "one", "two"]
    await asyncio.gather(*(asyncio.to_thread(writer.write, text) for text in random.sample(texts, len(texts))))
    stumble(0.3)


def fork(task: int) -> None:
    """Write a line in this process and in each of its children, by keys. The children outlive a kill of this process."""
    writer = Writer(task)
    children = [_in_child(partial(writer.write, "forked", f"child {child}")) for child in range(3)]
    writer.write("forked", "parent")
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stumble(0.3)


def _in_child(function: partial[None]) -> int:
    child = os.fork()
    if not child:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return child
