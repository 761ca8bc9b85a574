"""django-q2's own functions, where ours call them."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

_kept: dict[str, Callable[..., Any]] = {}


def keep(module: ModuleType) -> None:
    """Remember `django_q.tasks` as it has just run, before any of it is replaced."""
    _kept.update({name: value for name, value in vars(module).items() if callable(value)})


def original(name: str) -> Callable[..., Any]:
    """django-q2's function. Raises KeyError if it has none of this name, or if `django_q.tasks` was not imported yet."""
    return _kept[name]
