"""Values that stay pickled until somebody reads them: whoever moves them between tables runs no code of theirs."""

import operator
import pickle
from typing import Any


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
