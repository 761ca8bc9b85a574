"""The `Idempotency-Key` of a request: a client that repeats the request queues nothing again.

As Stripe has it (https://docs.stripe.com/api/idempotent_requests): any text of 255 characters at most.
"""

from django.http import HttpRequest

from durable_queue.intake import idempotency
from durable_queue.store.keys import Key
from notifications.http import Problem

LONGEST = 255  # characters
LOC = ["header", "idempotency-key"]


def key_problems(request: HttpRequest) -> list[Problem]:
    """What is wrong with the key of a request, if it has one."""
    key = _text(request)
    if key is None or 0 < len(key) <= LONGEST:
        return []
    if key:
        problem = ("string_too_long", f"String should have at most {LONGEST} characters", {"max_length": LONGEST})
    else:
        problem = ("string_too_short", "String should have at least 1 character", {"min_length": 1})
    kind, message, bounds = problem
    return [{"type": kind, "loc": [*LOC], "msg": message, "input": key, "ctx": bounds}]


def key_of(request: HttpRequest, body: bytes = b"") -> Key | None:
    """The key of a request, if it has one. `body`: what was read of it.

    It is one key to whoever has the same token, for one method and one route; a request is the same if its path and query are,
    byte for byte, and its body.
    """
    key = _text(request)
    if key is None:
        return None
    route = request.resolver_match
    assert route, "it has come to its view"  # noqa: S101
    actor: str = getattr(request, "actor", "")
    scope = [actor, request.method or "", route.route, route.view_name]
    path: bytes = getattr(request, "scope", {}).get("raw_path") or request.path.encode()
    return idempotency.key_of(key, scope=scope, request=[path, request.META.get("QUERY_STRING", "").encode(), body])


def reused(request: HttpRequest) -> Problem:
    """The problem of a key with which another request came before."""
    message = "Key was used with another request"
    return {"type": "idempotency_key_reused", "loc": [*LOC], "msg": message, "input": _text(request) or ""}


def _text(request: HttpRequest) -> str | None:
    key: str | None = request.META.get("HTTP_IDEMPOTENCY_KEY")
    return key
