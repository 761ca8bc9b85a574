"""What stands for the objects of a pickle that is read without running any of its code."""

import datetime
from typing import Any


class Kind(type):
    """Gives a stand-in's class the name of the class that it replaces."""

    path: str

    def __repr__(cls) -> str:
        return cls.path


class StandIn(metaclass=Kind):
    """Accepts everything that unpickling does to an object. It only keeps the arguments and the state."""

    path = ""
    _args: tuple[Any, ...] = ()
    _state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> "StandIn":
        self = super().__new__(cls)
        self._args = args
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Accept any arguments; `__new__` has kept them already."""

    def __call__(self, *args: Any, **kwargs: Any) -> "StandIn":
        """Stand for what a method makes: `getattr` has a stand-in, too, and a zone is pickled as a call of what it gives."""
        made: StandIn = Kind("made", (StandIn,), {"path": repr(self)})(*args)
        return made

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Accept an item, like a kind of dict, and drop it."""

    def append(self, item: Any) -> None:
        """Accept an item, like a kind of list or set, and drop it."""

    extend = add = append

    def __repr__(self) -> str:
        parts = [repr(arg) for arg in self._args]
        if isinstance(self._state, dict):
            parts += [f"{name}={value!r}" for name, value in self._state.items()]
        return f"{self.path}({', '.join(parts)})"


class WithZone(StandIn):
    """Makes a moment as it is, unless its zone is a stand-in."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(datetime, cls.__name__)(*args, **kwargs)
        except TypeError:
            return super().__new__(cls, *args, **kwargs)
