"""Read a payload without running any of its code, for people who look at a queue that may hold poison.

Unpickling imports modules and calls what a payload names; in a web process a row that kills whoever reads it would take
the page down, and the service with it. So every class but a few plain ones gets a stand-in that only knows its name.
"""

import io
import pickle
from dataclasses import dataclass, field
from pprint import pformat
from typing import Any

from django_q import core_signing
from django_q.conf import Conf
from django_q.signing import BadSignature

# Values that are shown as they are; making one does nothing else.
PLAIN = frozenset(
    {("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")}
    | {("builtins", "set"), ("builtins", "frozenset"), ("decimal", "Decimal"), ("uuid", "UUID")}
)

LONGEST = 20_000  # characters of a value that a page shows
CALL_KEYS = ("id", "name", "func", "args", "kwargs")  # what is left of a package are its options


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A payload's task, as far as it can be told."""

    id: str = ""
    name: str = "unreadable"
    func: str = ""
    args: Any = ()
    kwargs: Any = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    problem: str = ""  # why it is unreadable


def read(payload: str) -> Preview:
    """What a signed package says. One whose signature is wrong is not unpickled; nothing raises."""
    try:
        package = core_signing.loads(payload, key=Conf.SECRET_KEY, salt=Conf.PREFIX, serializer=_Serializer)
        return Preview(
            id=str(package["id"]),
            name=str(package["name"]),
            func=str(package["func"]),
            args=package["args"],
            kwargs=package["kwargs"],
            options={key: value for key, value in package.items() if key not in CALL_KEYS},
        )
    except BadSignature:
        return Preview(problem="Its signature is wrong, so it was not unpickled.")
    except Exception as error:
        return Preview(problem=f"It is no task that can be read ({type(error).__name__}: {error}).")


def shown(value: object) -> str:
    """A value as Python text, one part a line where it is long, and not longer than a page can show; never raises."""
    try:
        text = repr(value)
        if len(text) <= LONGEST:
            text = pformat(value, width=76, sort_dicts=False)
    except Exception as error:
        return f"It can't be shown: {type(error).__name__}"
    return shortened(text)


def shortened(text: str) -> str:
    """The text, without what lies beyond the longest that a page shows."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n… and {len(text) - LONGEST:,} more characters"


class _Kind(type):
    """Lets a stand-in's class show itself by the name of the class that it stands for."""

    path: str

    def __repr__(cls) -> str:
        return cls.path


class _StandIn(metaclass=_Kind):
    """Takes whatever unpickling does to an object, and does nothing but keep the arguments it was made with."""

    path = ""
    _args: tuple[Any, ...] = ()
    _state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> "_StandIn":
        self = super().__new__(cls)
        self._args = args
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take any arguments; `__new__` has noted them already."""

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """As for a dict's kind."""

    def append(self, item: Any) -> None:
        """As for a list's kind."""

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
    """What django-q2's signing takes for a serializer."""

    def loads(self, data: bytes) -> Any:
        return _Unpickler(io.BytesIO(data)).load()
