"""HTTP as FastAPI answers it: JSON responses, guards for views, and the error pages of the whole site."""

import json
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, NotRequired, TypedDict
from urllib.parse import parse_qsl, quote

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt

View = Callable[..., Coroutine[Any, Any, HttpResponse]]

# C0, DEL, C1 and Unicode's line and paragraph separators: a reader of the log may take them for the end of a line, a
# terminal for a command.
CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# Characters that a path may hold unencoded (RFC 3986, section 3.3, and the brackets that Starlette leaves alone). Not "%":
# a "%" in a value must stay encoded, or the redirect would lead elsewhere.
SAFE_IN_PATH = "/:@!$&'()*+,;=[]"


class Problem(TypedDict):
    """One entry of a 422's `detail`, as FastAPI writes it."""

    type: str
    loc: list[str | int]
    msg: str
    input: Any
    ctx: NotRequired[dict[str, Any]]  # the bounds, or what was expected


# JsonResponse makes an encoder for each response, which takes longer than the rest of its work.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class JSON(HttpResponse):
    """Compact JSON with as few escapes as possible: byte for byte what Starlette's JSONResponse sends."""

    def __init__(self, content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = _encode(content).encode()
        # Clients' requests don't pass CommonMiddleware. Without Content-Length, the server would send the body in chunks.
        own = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        super().__init__(body, status=status, headers=own | dict(headers or {}))


def error(status: int, detail: str | list[Problem], headers: Mapping[str, str] | None = None) -> JSON:
    """An error in FastAPI's shape: `{"detail": …}`."""
    return JSON({"detail": detail}, status=status, headers=headers)


def last_query_value(request: HttpRequest, name: str) -> str | None:
    """The value of the last parameter `name` in the query string, or None. Bytes that are not UTF-8 become U+FFFD.

    Not `request.GET`, which refuses a query of more than DATA_UPLOAD_MAX_NUMBER_FIELDS parameters.
    """
    pairs = parse_qsl(request.META.get("QUERY_STRING", ""), keep_blank_values=True)
    return dict(pairs).get(name)


def control_character_problems(**values: tuple[str, str | None]) -> list[Problem]:
    """The problems of values that will stand in a log line. `email=("path", "a\\nb")` gives the place and the value."""
    return [
        {
            "type": "control_character",
            "loc": [place, name],
            "msg": "Value should have no control characters",
            "input": value,
        }
        for name, (place, value) in values.items()
        if value is not None and CONTROL_CHARACTERS.search(value)
    ]


def post_only(view: View) -> View:
    """Answer every method but POST, including HEAD and OPTIONS, with FastAPI's 405."""

    @wraps(view)
    async def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method != "POST":
            return error(405, "Method Not Allowed", {"Allow": "POST"})
        return await view(request, *args, **kwargs)

    return guarded


def by_method(**views: Callable[..., Any]) -> View:
    """A view of several, by the request's method: `by_method(GET=newest, POST=queue)`. Other methods get FastAPI's 405.

    Each may be synchronous; the one that all make is not. No answer is for a cache: the next moment may have another one.
    """
    allowed = {"Allow": ", ".join(sorted(views))}
    awaited = {method: view if iscoroutinefunction(view) else sync_to_async(view) for method, view in views.items()}

    @csrf_exempt
    async def chosen(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        view = awaited.get(request.method or "")
        if view is None:
            return error(405, "Method Not Allowed", allowed)
        response: HttpResponse = await view(request, *args, **kwargs)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return chosen


def redirect_to_path(request: HttpRequest, path: str) -> HttpResponse:
    """Redirect with 307 to another (decoded) path of this host, and keep the query. Like Starlette, send no body or type."""
    query = request.META.get("QUERY_STRING", "")
    location = f"{request.scheme}://{request.get_host()}{quote(path, safe=SAFE_IN_PATH)}" + (f"?{query}" if query else "")
    response = HttpResponseRedirect(location, preserve_request=True)
    del response["Content-Type"]
    response["Content-Length"] = "0"
    return response


def bad_request(request: HttpRequest, exception: Exception) -> JSON:
    """400: most often for a Host that NOTIFIER_ALLOWED_HOSTS does not name."""
    return error(400, "Bad Request")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403: a page in the admin, JSON elsewhere."""
    return defaults.permission_denied(request, exception) if _is_admin(request) else error(403, "Forbidden")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404: a page in the admin, JSON elsewhere."""
    return defaults.page_not_found(request, exception) if _is_admin(request) else error(404, "Not Found")


def server_error(request: HttpRequest) -> HttpResponse:
    """500: a page in the admin, JSON elsewhere. The traceback goes to the service's output, not to the client."""
    return defaults.server_error(request) if _is_admin(request) else error(500, "Internal Server Error")


def _is_admin(request: HttpRequest) -> bool:
    return request.path_info.startswith(f"{settings.ADMIN_PATH}/")
