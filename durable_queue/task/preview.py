"""Read a payload without running any of its code: the admin shows queues that may hold poison.

Unpickling imports the modules and calls the classes that a payload names. A payload that kills the process which reads it
would take the web process down, and the service with it. Therefore a stand-in, which only knows the class's name, replaces
every class but a few plain ones.
"""

import io
import pickle
import re
from binascii import a2b_base64
from dataclasses import dataclass, field
from importlib import import_module
from pprint import pformat
from typing import Any, NoReturn

from django_q import core_signing
from django_q.conf import Conf
from django_q.signing import BadSignature

from durable_queue.task.stand_ins import Kind, StandIn, WithZone
from durable_queue.task.text import storable

# Classes whose values are shown as they are: making such a value has no side effect.
PLAIN = frozenset(
    {("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")}
    | {("builtins", "set"), ("builtins", "frozenset"), ("decimal", "Decimal"), ("uuid", "UUID")}
)

WITH_ZONE = frozenset({("datetime", "datetime"), ("datetime", "time")})  # they refuse a stand-in of a zone

LONGEST = 20_000  # the most characters of a value that a page shows
STORED = 1 << 20  # the most characters of a pickled value in the history that a page reads
PARTS = 100_000  # of a value: a pickle of some bytes may hold a list of lists, each ten times in the next, without end
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
            id=storable(str(task["id"])),
            name=storable(str(task["name"])),
            func=storable(str(task["func"])),
            args=task["args"],
            kwargs=task["kwargs"],
            options={key: value for key, value in task.items() if key not in CALL_KEYS},
        )
    except BadSignature:
        return Preview(problem="Its signature is wrong. Therefore it was not unpickled.")
    except Exception as error:
        return Preview(problem=storable(f"It holds no readable task ({type(error).__name__}: {error})."))


def names_in(payload: str) -> list[str]:
    """The dotted paths of all classes and functions that a signed payload names. Raises what makes it unreadable."""

    class Noting(_Serializer):
        def loads(self, data: bytes) -> Any:
            return _NotingUnpickler(io.BytesIO(data), names).load()

    names: list[str] = []
    core_signing.loads(payload, key=Conf.SECRET_KEY, salt=Conf.PREFIX, serializer=Noting)
    return names


def path_of(value: object) -> str:
    """The dotted path that a value of a preview names, as text or as a function or class; empty for anything else."""
    return value if isinstance(value, str) else str(value) if isinstance(value, Kind) else ""


# The beginning of a pickled text: the protocol, a frame, and the opcode with the text's length (pickletools).
_LONG_TEXT = re.compile(rb"\x80.(?:\x95.{8})?(?:X.{4}|\x8d.{8})", re.DOTALL).match


@dataclass(frozen=True)
class Unreadable:
    """Stands for a value of the history that can't be read."""

    problem: str

    def __repr__(self) -> str:
        return self.problem


def read_stored(text: str | None, longest: int = STORED) -> Any:
    """Preview a value of the history, from its column's text: at most `longest` characters of it, and one more. Never raises.

    The history is not signed. Therefore Python's own unpickler reads it, which takes no more memory than the text says.
    """
    if text is None:
        return None
    try:
        if len(text) <= longest:
            return _read_nested(a2b_base64(text))
        data = a2b_base64(text[:longest])
        if long_text := _LONG_TEXT(data):
            return data[long_text.end() :].decode("utf-8", "ignore")
        return Unreadable(f"It is too long to be shown: more than {longest:,} characters are stored.")
    except Exception as error:
        return Unreadable(f"It can't be read ({type(error).__name__}: {error}).")


def shown(value: object) -> str:
    """A value as Python text: long ones on several lines, and no longer than a page can show. Never raises."""
    try:
        if _is_endless(value):
            return "It has too many parts to be shown."
        text = repr(value)
        if len(text) <= LONGEST:
            text = pformat(value, width=76, sort_dicts=False)
    except Exception as error:
        return f"It can't be shown: {type(error).__name__}"
    return storable(shortened(text))


def shortened(text: str) -> str:
    """The text, cut to the most that a page shows."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n… and {len(text) - LONGEST:,} more characters"


def _is_endless(value: object) -> bool:
    """Whether showing the value would show too many parts: what stands in several places counts in each."""
    waiting, parts = [value], 0
    while waiting:
        part = waiting.pop()
        parts += 1 + (len(part) // 100 if isinstance(part, str | bytes | bytearray) else 0)
        if isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set | frozenset):
            waiting += part
        elif isinstance(part, StandIn):
            waiting += [part._args, part._state]
        if parts + len(waiting) > PARTS:
            return True
    return False


def _find_class(module: str, name: str) -> Any:
    if (module, name) in WITH_ZONE:
        return Kind(name, (WithZone,), {"path": f"{module}.{name}"})
    if (module, name) in PLAIN:
        return getattr(import_module(module), name)
    if (module, name) == ("_pickle", "loads"):  # durable_queue/task/pickled.py leaves values pickled
        return _read_nested
    if (module, name) == ("_operator", "getitem"):  # and parts of them
        return _part_of
    return Kind(name, (StandIn,), {"path": f"{module}.{name}"})


def _part_of(whole: object, key: object) -> Any:
    if isinstance(whole, dict) and isinstance(key, str) and key in whole:
        return whole[key]
    return Kind("getitem", (StandIn,), {"path": "operator.getitem"})(whole, key)


def _refuse_bytearray(_: object) -> NoReturn:
    raise pickle.UnpicklingError("a bytearray is not shown")


def _read_nested(data: bytes) -> Any:
    return SafeUnpickler(io.BytesIO(data)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _find_class(module, name)


class _NotingUnpickler(pickle.Unpickler):
    """Notes the names, those in values that are pickled once more too."""

    def __init__(self, file: io.BytesIO, names: list[str]) -> None:
        super().__init__(file)
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        self._names.append(f"{module}.{name}")
        if (module, name) == ("_pickle", "loads"):
            return lambda data: _NotingUnpickler(io.BytesIO(data), self._names).load()
        return _find_class(module, name)


class SafeUnpickler(pickle._Unpickler):
    """Unpickles stand-ins. Python's own. The one in C reserves memory for as many values as a pickle claims to have."""

    dispatch = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: _refuse_bytearray}  # it would reserve any length

    def find_class(self, module: str, name: str) -> Any:
        return _find_class(module, name)


class _Serializer:
    """A serializer for django-q2's signing, which unpickles stand-ins."""

    def loads(self, data: bytes) -> Any:
        return _Unpickler(io.BytesIO(data)).load()
