"""What a token may be good for, and what each path and method of the API needs."""

import re
from dataclasses import dataclass
from enum import StrEnum


class TokenScope(StrEnum):
    """What a token is good for (RFC 6750, section 3, calls it a scope)."""

    WRITE = "write"  # to queue tasks
    READ = "read"  # to see them
    MANAGE = "manage"  # to cancel, retry, run and delete them


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a request needs."""

    scope: TokenScope | None = None  # none: any token
    is_open: bool = True  # to everybody, where no tokens are set


API = "/tasks"  # the beginning of its paths

# Requests that these lines don't name are answered by 404 or 405.
_NEEDS = [
    ("POST", re.compile(r"/tasks(?:/bulk)?"), Need(scope=TokenScope.WRITE)),
    ("GET", re.compile(r"/tasks"), Need(scope=TokenScope.READ, is_open=False)),
    ("GET", re.compile(r"/tasks/[^/]+"), Need(scope=TokenScope.READ)),
    ("POST", re.compile(r"/tasks/[^/]+/(?:cancel|retry|run-now)"), Need(scope=TokenScope.MANAGE, is_open=False)),
    ("DELETE", re.compile(r"/tasks/(?!bulk\Z)[^/]+"), Need(scope=TokenScope.MANAGE, is_open=False)),
]

ANY_TOKEN = Need()
TO_QUEUE = Need(scope=TokenScope.WRITE)


def need_of(method: str | None, path: str) -> Need:
    """What a request of the API needs, by its (decoded) path."""
    for needed_for, pattern, need in _NEEDS:
        if method == needed_for and pattern.fullmatch(path):
            return need
    return ANY_TOKEN
