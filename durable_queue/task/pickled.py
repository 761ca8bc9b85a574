"""Values that stay pickled until somebody reads them: whoever moves them between tables runs no code of theirs."""

import operator
import pickle
from types import NoneType
from typing import Any

from django_q import core_signing
from django_q.conf import Conf

from durable_queue.task.preview import PLAIN

BUILT_IN = frozenset({NoneType, bool, int, float, complex, str, bytes, bytearray})


class Pickled:
    """A value, by its pickle."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._content,)


class PartOf:
    """What a pickled dict has under a key."""

    def __init__(self, whole: bytes, key: str) -> None:
        self._whole = Pickled(whole)
        self._key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return operator.getitem, (self._whole, self._key)


def part_of_payload(payload: str, name: str, seen: object) -> object:
    """What a signed payload's task has under a name, for the history to pickle. `seen`: the same, as a preview has read it.

    A plain value is itself. Any other is unpickled by whoever reads it.
    """
    try:
        if _is_plain(seen):
            pickle.dumps(seen)
            return seen
    except RecursionError:  # it is nested too deeply
        pass
    return PartOf(core_signing.loads(payload, key=Conf.SECRET_KEY, salt=Conf.PREFIX, serializer=_Raw), name)


def _is_plain(value: object) -> bool:
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        kind = type(part)
        if isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set | frozenset):
            waiting += part
        elif (kind.__module__, kind.__qualname__) not in PLAIN and kind not in BUILT_IN:
            return False
    return True


class _Raw:
    """A serializer for django-q2's signing, which leaves the pickle as it is."""

    def loads(self, data: bytes) -> bytes:
        return data
