"""Errors as one line: what workers, and django-q2, keep of an error is its text, and a traceback behind that."""

import re

from durable_queue.task.text import storable

LONGEST = 500  # characters
# Where the traceback of an error begins, behind those of its causes. Of a group, it has a frame around it.
_HEADER = re.compile(r"(?:^| : )(?:  \+ Exception Group )?Traceback \(most recent call last\):\n", re.MULTILINE)
# The first line behind the frames, which are indented: the error's type, by its dotted path, and its text.
_LAST = re.compile(r"^(?:  \| )?(?:[\w<>]+\.)*(\w+(?:: .*)?)$", re.MULTILINE)
# A path from the root, of two parts or more; not one within an address, or behind another word.
_PATH = re.compile(r"(?<![\w:/.])(?:/[\w.@+~-]+)+/([\w.@+~-]+)")


def one_line(error: str) -> str:
    """The type and the message of an error, without a traceback, and without the folders of a path. Never raises."""
    headers = list(_HEADER.finditer(error))
    message = error[: headers[0].start()] if headers else error
    behind_frames = _LAST.search(error, headers[-1].end()) if headers else None
    first = behind_frames[1] if behind_frames else message.strip().partition("\n")[0]
    line = _PATH.sub(r"…/\1", storable(first))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
