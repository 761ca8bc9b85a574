"""Read a payload without running any of its code: the admin shows queues that may hold poison.

Unpickling imports the modules and calls the classes that a payload names. A payload that kills the process which reads it
would take the web process down, and the service with it. Therefore a stand-in, which only knows the class's name, replaces
every class but a few plain ones.
"""

import io
import pickle
from dataclasses import dataclass, field
from pprint import pformat
from typing import Any

from django_q import core_signing
from django_q.conf import Conf
from django_q.signing import BadSignature

# Classes whose values are shown as they are: making such a value has no side effect.
PLAIN = frozenset(
    {("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")}
    | {("builtins", "set"), ("builtins", "frozenset"), ("decimal", "Decimal"), ("uuid", "UUID")}
)

LONGEST = 20_000  # the most characters of a value that a page shows
CALL_KEYS = ("id", "name", "func", "args", "kwargs")  # the other keys of a task are its options


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A payload's task, as far as it can be read."""

    id: str = ""
    name: str = "unreadable"
    func: str = ""
    args: Any = ()
    kwargs: Any = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    problem: str = ""  # why it is unreadable


def read(payload: str) -> Preview:
    """Preview a payload. One with a wrong signature is not unpickled. Never raises."""
    try:
        task = core_signing.loads(payload, key=Conf.SECRET_KEY, salt=Conf.PREFIX, serializer=_Serializer)
        return Preview(
            id=str(task["id"]),
            name=str(task["name"]),
            func=str(task["func"]),
            args=task["args"],
            kwargs=task["kwargs"],
            options={key: value for key, value in task.items() if key not in CALL_KEYS},
        )
    except BadSignature:
        return Preview(problem="Its signature is wrong. Therefore it was not unpickled.")
    except Exception as error:
        return Preview(problem=f"It holds no readable task ({type(error).__name__}: {error}).")


def shown(value: object) -> str:
    """A value as Python text: long ones on several lines, and no longer than a page can show. Never raises."""
    try:
        text = repr(value)
        if len(text) <= LONGEST:
            text = pformat(value, width=76, sort_dicts=False)
    except Exception as error:
        return f"It can't be shown: {type(error).__name__}"
    return shortened(text)


def shortened(text: str) -> str:
    """The text, cut to the most that a page shows."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n… and {len(text) - LONGEST:,} more characters"


class _Kind(type):
    """Gives a stand-in's class the name of the class that it replaces."""

    path: str

    def __repr__(cls) -> str:
        return cls.path


class _StandIn(metaclass=_Kind):
    """Accepts everything that unpickling does to an object. It only keeps the arguments and the state."""

    path = ""
    _args: tuple[Any, ...] = ()
    _state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> "_StandIn":
        self = super().__new__(cls)
        self._args = args
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Accept any arguments; `__new__` has kept them already."""

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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in PLAIN:
            return super().find_class(module, name)
        return _Kind(name, (_StandIn,), {"path": f"{module}.{name}"})


class _Serializer:
    """A serializer for django-q2's signing, which unpickles stand-ins."""

    def loads(self, data: bytes) -> Any:
        return _Unpickler(io.BytesIO(data)).load()
