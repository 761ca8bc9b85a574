"""What a client asks for in the query and in `Prefer`. What is wrong is said as FastAPI says it."""

import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from django.db.models import TextChoices
from django.http import HttpRequest

from notifications.http import Problem

Number = TypeVar("Number", int, float)
Choice = TypeVar("Choice", bound=TextChoices)

NOT_READ = {
    int: ("int_parsing", "Input should be a valid integer, unable to parse string as an integer"),
    float: ("float_parsing", "Input should be a valid number, unable to parse string as a number"),
}
LONGEST_NUMBER = 100  # characters: Python takes very long for long ones, or refuses them

LONGEST_PREFER = 1000  # characters of the header that are looked at, in the event loop

# A preference and its value, a token or a quoted string, up to the next comma (RFC 7240, section 2). It begins with no blanks:
# from each of many, the search would go over all that follow.
_PREFERENCE = re.compile(r'([!#$%&\'*+.^_`|~\w-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,;"]*)))?[^,"]*(?:"[^"]*"[^,"]*)*,?')


class Query:
    """The parameters of a request's query. Of several with one name the last counts; unknown ones are ignored."""

    def __init__(self, request: HttpRequest) -> None:
        self._values: dict[str, str] = dict(parse_qsl(request.META.get("QUERY_STRING", ""), keep_blank_values=True))
        self.problems: list[Problem] = []  # what was found to be wrong so far

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        """A whole number within bounds."""
        return self._number(int, name, default, least, most)

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        """A number within bounds."""
        return self._number(float, name, default, least, most)

    def _number(self, kind: Callable[[str], Number], name: str, default: Number, least: Number, most: Number) -> Number:
        text = self._values.get(name)
        if text is None:
            return default
        try:
            if not text.isascii() or len(text) > LONGEST_NUMBER:
                raise ValueError
            value = kind(text)
        except ValueError:
            self.refuse(name, *NOT_READ[kind])  # type: ignore[index]
            return default
        if not value <= most:  # nor is "nan"
            self.refuse(name, "less_than_equal", f"Input should be less than or equal to {most:g}", le=most)
        elif value < least:
            self.refuse(name, "greater_than_equal", f"Input should be greater than or equal to {least:g}", ge=least)
        return value

    def choice(self, name: str, choices: type[Choice]) -> Choice | None:
        """One of these; None if none is asked for: if the parameter isn't there, or empty."""
        text = self._values.get(name, "")
        if not text:
            return None
        if text in choices.values:
            return choices(text)
        *first, last = map(repr, choices.values)
        expected = f"{', '.join(first)} or {last}"
        self.refuse(name, "enum", f"Input should be {expected}", expected=expected)
        return None

    def text(self, name: str) -> str:
        """Any text; empty if the parameter isn't there."""
        return self._values.get(name, "")

    def refuse(self, name: str, kind: str, message: str, **context: Any) -> None:
        """Note what is wrong with a parameter."""
        problem = Problem(type=kind, loc=["query", name], msg=message, input=self._values.get(name))
        self.problems.append({**problem, "ctx": context} if context else problem)


def preferred_wait(header: str) -> int | None:
    """How many seconds a client would wait at most (RFC 7240, section 4.3); None if it does not say so, or not in digits."""
    for name, quoted, plain in _PREFERENCE.findall(header[:LONGEST_PREFER]):
        if name.lower() == "wait":  # the first one counts
            text = quoted or plain
            return int(text[:9]) if text.isascii() and text.isdecimal() else None
    return None
