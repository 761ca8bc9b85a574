"""Read the beginning of a payload that is too long to be read as a whole."""

import io
from base64 import urlsafe_b64decode
from contextlib import suppress

from durable_queue.task.preview import Preview, SafeUnpickler
from durable_queue.task.text import storable

BEGINNING = 4096  # characters in which these stand


def read_beginning(payload: str) -> Preview:
    """The id, name and function of a long payload, by its beginning. Its signature can't be checked. Never raises.

    These three come first in what `async_task` and `new_task` make. Python's own unpickler reads them, which takes no more
    memory than the text says, but for all of a long text a time that many such tasks would make felt.
    """
    try:
        unpickler = SafeUnpickler(io.BytesIO(urlsafe_b64decode(payload[: min(BEGINNING, len(payload) // 4 * 4)])))
        with suppress(Exception):  # it ends in the middle
            unpickler.load()
        # What it has made so far, and not put into the dict yet.
        read_so_far = [*unpickler.metastack, unpickler.stack][1]  # type: ignore[attr-defined]
        task = dict(zip(read_so_far[::2], read_so_far[1::2], strict=False))
        id_, name, func = (storable(str(task[key])) for key in ("id", "name", "func"))
    except Exception as error:
        return Preview(problem=storable(f"It is long, and its beginning can't be read ({type(error).__name__}: {error})."))
    return Preview(id=id_, name=name, func=func, problem="It is too long to be read.")
