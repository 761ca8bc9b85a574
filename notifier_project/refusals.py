"""Refusals in FastAPI's shape, for requests that no view sees."""

import json
from collections.abc import Mapping

from django.http import HttpResponse


def refuse(status: int, detail: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """A response `{"detail": …}` with this status."""
    body = json.dumps({"detail": detail}, separators=(",", ":"), ensure_ascii=False).encode()
    # No middleware adds Content-Length. Without it, the server would send the body in chunks.
    own = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return HttpResponse(body, status=status, headers=own | dict(headers or {}))
