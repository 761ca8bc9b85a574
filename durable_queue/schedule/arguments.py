"""What a schedule's row says of its call: arguments, keyword arguments, options of `async_task`; all as literals in text."""

import ast
from dataclasses import dataclass
from typing import Any

# The exceptions that ast.literal_eval may raise (https://docs.python.org/3/library/ast.html#ast.literal_eval).
UNREADABLE = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)
LONGEST_REASON = 200  # characters

# What django_q.tasks.async_task takes out of the keyword arguments (`opt_keys`, `task_name`). The broker is the scheduler's
# own, which names a queue, and `sync` would run the task within the process that is to look after all schedules.
OPTIONS = ("hook", "group", "save", "cached", "ack_failure", "iter_count", "iter_cached", "chain", "cluster", "timeout")
DROPPED = ("broker", "broker_name", "sync")


class ArgumentsError(ValueError):
    """The text can't be read. The message names the field."""


@dataclass(frozen=True)
class Call:
    """What is to be called with, and the task's options."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    name: str | None  # the task's


def read_args(text: str | None) -> tuple[Any, ...]:
    """The positional arguments, or the single one. Raises ArgumentsError."""
    try:
        args = ast.literal_eval(text) if text else ()
    except UNREADABLE as error:
        raise ArgumentsError(f"The arguments can't be read as Python literals: {_reason(error)}") from error
    return args if isinstance(args, tuple) else (args,)


def read_kwargs(text: str | None) -> dict[str, Any]:
    """The keyword arguments: a dict, or as they are written in a call. Raises ArgumentsError.

    django-q2's scheduler makes the call without them where it can't read them.
    """
    try:
        kwargs = _read_dict(text) if text else {}
    except UNREADABLE as error:
        raise ArgumentsError(f"The keyword arguments can't be read as Python literals: {_reason(error)}") from error
    if not all(isinstance(name, str) for name in kwargs):
        raise ArgumentsError("The keyword arguments can't be read: each needs a name")
    return kwargs


def _read_dict(text: str) -> dict[Any, Any]:
    try:
        found = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise
        return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    if not isinstance(found, dict):
        raise TypeError(f"they are a {type(found).__name__}")
    return found


def read_call(args: str | None, kwargs: str | None) -> Call:
    """The call with its options: those in `q_options`, and those among the keyword arguments. Raises ArgumentsError."""
    keywords = read_kwargs(kwargs)
    given = keywords.pop("q_options", None) or {}
    if not isinstance(given, dict):
        raise ArgumentsError(f"q_options is a {type(given).__name__}, and not a dict")
    if "cluster" not in given and given.get("broker_name") is not None:
        given["cluster"] = given["broker_name"]
    name = keywords.pop("task_name", None) or given.get("task_name")
    options = {
        option: given[option] if option in given else keywords.pop(option) for option in OPTIONS if option in given | keywords
    }
    for option in DROPPED:
        keywords.pop(option, None)
    return Call(read_args(args), keywords, options, name=None if name is None else str(name))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:LONGEST_REASON]
