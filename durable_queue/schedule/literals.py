"""Arguments as they are given to a schedule. Its row keeps them as text, and they must come back from it as they were."""

import ast

from durable_queue.schedule.arguments import ArgumentsError


def check_given(value: object) -> None:
    """Raise ArgumentsError if these arguments, a tuple or a dict, would come back from their text as something else."""
    parts = value.items() if isinstance(value, dict) else enumerate(value, 1) if isinstance(value, tuple) else ()
    for name, part in parts:
        if not _is_its_literal(part):
            raise ArgumentsError(
                f"Argument {name} is {_short(part)}, which is no Python literal: a schedule keeps its arguments as text. "
                "Give it as text or as a number, and have the function convert it"
            )
    if not _is_its_literal(value):
        raise ArgumentsError(f"{_short(value)} is no Python literal")


def _is_its_literal(value: object) -> bool:
    try:
        return bool(ast.literal_eval(str(value) if isinstance(value, tuple | dict) else repr(value)) == value)
    except Exception:  # repr and == are the value's own code
        return False


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}…"  # noqa: PLR2004 - nobody reads more
