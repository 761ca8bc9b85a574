"""HTTP in FastAPI's manners: JSON answers, guards for views, and the error pages of the whole site."""

import re
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Protocol, TypedDict
from urllib.parse import parse_qsl, quote

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.views import defaults

View = Callable[..., HttpResponse]

# C0, DEL, C1 and Unicode's line and paragraph separators: all that a reader of the log may take for a line's end,
# or a terminal for a command.
CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# What a path may hold as it is (RFC 3986, section 3.3, and the brackets that Starlette leaves alone). No "%": one that
# is part of a value must stay encoded, or the redirect would lead elsewhere.
SAFE_IN_PATH = "/:@!$&'()*+,;=[]"

# How long an answer may wait for the rest of a body that nobody reads (seconds), and how many such bodies a process
# follows at a time. Beyond either, the answer goes out and the connection may close after it.
BODY_WAIT = 0.25
BODIES_FOLLOWED = 16


class Problem(TypedDict):
    """One entry of a 422's `detail`, as FastAPI writes it."""

    type: str
    loc: list[str]
    msg: str
    input: str


class JSON(JsonResponse):
    """Compact JSON, escaped no more than it must be: byte for byte what Starlette's JSONResponse sends."""

    def __init__(self, content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            content,
            status=status,
            headers=headers,
            json_dumps_params={"separators": (",", ":"), "ensure_ascii": False},
        )
        # Not left to CommonMiddleware: what is refused before it would go out in chunks, which HTTP/1.0 does not know.
        self["Content-Length"] = str(len(self.content))


def error(status: int, detail: str | list[Problem], headers: Mapping[str, str] | None = None) -> JSON:
    """An error in FastAPI's shape: `{"detail": …}`."""
    return JSON({"detail": detail}, status=status, headers=headers)


def last_query_value(request: HttpRequest, name: str) -> str | None:
    """The value of the last `name` in the query string, or None; bytes that are no UTF-8 become U+FFFD.

    Not `request.GET`, which refuses a query of more than DATA_UPLOAD_MAX_NUMBER_FIELDS parameters.
    """
    pairs = parse_qsl(request.META.get("QUERY_STRING", ""), keep_blank_values=True)
    return dict(pairs).get(name)


def control_character_problems(**values: tuple[str, str | None]) -> list[Problem]:
    """What is wrong with values that will stand in a log line: `email=("path", "a\\nb")` names its place and its value."""
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
    """Answer any other method, HEAD and OPTIONS too, with FastAPI's 405."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        # Not `request.method`, which is in upper case: the names of methods are case-sensitive (RFC 9110, section 9.1).
        if request.META["REQUEST_METHOD"] != "POST":
            return error(405, "Method Not Allowed", {"Allow": "POST"})
        return view(request, *args, **kwargs)

    return guarded


class Readable(Protocol):
    """A WSGI server's `wsgi.input` (PEP 3333)."""

    def read(self, size: int, /) -> bytes: ...


def ignore_body(view: View) -> View:
    """Let a body of any size, kind and pace pass by unread.

    Granian (that is, hyper) resets the connection when a body was not taken up to its end, and a client that is still
    sending then loses its answer. So a thread takes the body and throws it away; the answer waits for that, but not long.
    """
    free_places = threading.BoundedSemaphore(BODIES_FOLLOWED)

    def discard(body: Readable, done: threading.Event) -> None:
        try:
            while body.read(65536):
                pass
        finally:
            free_places.release()
            done.set()

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        if _has_unread_body(request) and free_places.acquire(blocking=False):
            done = threading.Event()
            threading.Thread(target=discard, args=(request.META["wsgi.input"], done), daemon=True).start()
            done.wait(BODY_WAIT)
        return response

    return wrapped


def _has_unread_body(request: HttpRequest) -> bool:
    # Other servers look after unread bodies themselves, and would mind a thread that reads beside them.
    announced = request.META.get("CONTENT_LENGTH", "0") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in request.META
    return announced and request.META.get("SERVER_SOFTWARE") == "Granian"


def redirect_to_path(request: HttpRequest, path: str) -> HttpResponse:
    """307 to another (decoded) path of this host, query kept; the answer has no body and no type, as Starlette's."""
    query = request.META.get("QUERY_STRING", "")
    location = f"{request.scheme}://{request.get_host()}{quote(path, safe=SAFE_IN_PATH)}" + (f"?{query}" if query else "")
    response = HttpResponseRedirect(location, preserve_request=True)
    del response["Content-Type"]
    response["Content-Length"] = "0"
    return response


@ignore_body
def bad_request(request: HttpRequest, exception: Exception) -> JSON:
    """400: above all for a Host that NOTIFIER_ALLOWED_HOSTS doesn't name."""
    return error(400, "Bad Request")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403; for people, in the admin, as a page."""
    return defaults.permission_denied(request, exception) if _is_admin(request) else error(403, "Forbidden")


@ignore_body
def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404; for people, in the admin, as a page."""
    return defaults.page_not_found(request, exception) if _is_admin(request) else error(404, "Not Found")


def server_error(request: HttpRequest) -> HttpResponse:
    """500: the traceback is in the service's log, not in the answer."""
    return defaults.server_error(request) if _is_admin(request) else error(500, "Internal Server Error")


def _is_admin(request: HttpRequest) -> bool:
    return request.path_info.startswith("/admin/")
