"""Whether a result can be stored: what can be pickled can't always be loaded again, and then nobody gets it."""

import io
import pickle
from typing import Any

from django_q.exceptions import TimeoutException

SIMPLE = frozenset({type(None), bool, int, float, str, bytes})  # they can be pickled and loaded, without a try
LARGEST = 8 << 20  # bytes of a pickle that is loaded as a whole
GROUP = 1_000  # items of a larger one that are loaded together
MOST_OPENED = 100  # containers whose items are checked by themselves


class UnloadableError(Exception):
    """It can be pickled, and not be loaded again."""


def check(result: object) -> None:
    """Raise UnloadableError, or whatever pickling raises, if the result can't be stored and loaded.

    Plain values take no load. Of a large one, items are loaded group by group: memory never holds all of it twice.
    """
    waiting: list[Any] = [result]
    opened: dict[int, Any] = {}  # by their ids, which nothing else has as long as they are here
    while waiting:
        part = waiting.pop()
        if _is_plain(part):
            continue
        kept = _Kept()
        pickler = _Pickler(kept, pickle.HIGHEST_PROTOCOL)
        pickler.dump(part)
        if not pickler.has_met_objects:
            continue
        if not kept.is_too_long:
            _load(kept.buffer.getvalue())
        elif id(part) not in opened and len(opened) < MOST_OPENED and (items := _items_of(part)):
            opened[id(part)] = part
            waiting += items
        else:
            _load(pickle.dumps(part, pickle.HIGHEST_PROTOCOL))


def _is_plain(part: Any) -> bool:
    """Whether it is a plain value, or a container of nothing else: most results are, and need no pickle."""
    kind = type(part)
    if kind is dict:
        return SIMPLE.issuperset(map(type, part)) and SIMPLE.issuperset(map(type, part.values()))
    return kind in SIMPLE or (kind in {list, tuple} and SIMPLE.issuperset(map(type, part)))


def _load(pickled: bytes) -> None:
    try:
        pickle.loads(pickled)  # noqa: S301 - what this very process has made
    except TimeoutException:
        raise
    except BaseException as error:  # it runs code of others
        raise UnloadableError from error


class _Pickler(pickle.Pickler):
    """Notes whether anything in a value has a way of its own to be loaded. What is of a built-in type has none."""

    has_met_objects = False

    def reducer_override(self, _: object) -> Any:
        """Called for all but built-in values (https://docs.python.org/3/library/pickle.html#reducer-override)."""
        self.has_met_objects = True
        return NotImplemented


class _Kept:
    """A file that keeps what is written, as long as that is not too long."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.is_too_long = False

    def write(self, data: bytes) -> int:
        """Take in more of a pickle."""
        if not self.is_too_long:
            self.buffer.write(data)
            if self.buffer.tell() > LARGEST:
                self.buffer, self.is_too_long = io.BytesIO(), True
        return len(data)


def _items_of(part: object) -> list[Any]:
    """What a container of a built-in type holds, in groups if that is much; nothing for all else."""
    if type(part) is dict:
        items = [*part.keys(), *part.values()]
    elif type(part) in {list, tuple, set, frozenset}:
        items = list(part)  # type: ignore[call-overload]
    else:
        return []
    return items if len(items) <= GROUP else [items[start : start + GROUP] for start in range(0, len(items), GROUP)]
