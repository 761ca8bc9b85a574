"""`/openapi.json`, `/docs`, `/redoc` and the files that these pages load: constant bytes, made when they are first asked for.

The event loop serves them, so that they wait for no page of the admin. No code and no style stands in a page, and nothing
is loaded from elsewhere: the pages' Content-Security-Policy says so to the browser.
"""

import asyncio
import functools
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, re_path

from notifications.http import View, error
from notifications.openapi.document import document
from notifications.openapi.reading import page
from notifications.views import redirect_without_slash

OWN = Path(__file__).parent / "files"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'{data}; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _served(make: Callable[[], bytes], content_type: str, **headers: str) -> View:
    """A view that answers GET and HEAD with these bytes."""
    made = functools.cache(make)
    own = {"Content-Type": content_type} | {name.replace("_", "-"): value for name, value in headers.items()}

    async def view(request: HttpRequest) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return error(405, "Method Not Allowed", {"Allow": "GET, HEAD"})
        body = made() if made.cache_info().currsize else await asyncio.to_thread(made)
        return HttpResponse(body, headers=own | {"Content-Length": str(len(body))})

    return view


def _html(make: Callable[[], bytes], *, data: str = "") -> View:
    """A page. `data`: what else images may come from."""
    policy = POLICY.format(data=data)
    return _served(make, "text/html; charset=utf-8", Content_Security_Policy=policy, X_Content_Type_Options="nosniff")


def _file(folder: Path, name: str) -> URLPattern:
    """A file that a page loads, at the path of its page."""
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".png": "image/png"}
    file = folder / name
    view = _served(file.read_bytes, kinds[file.suffix], Cache_Control="max-age=3600", X_Content_Type_Options="nosniff")
    return path(f"docs/{name}", view)


# The package brings them for Django; it needs not be among INSTALLED_APPS.
SWAGGER_UI = Path(str(files("drf_spectacular_sidecar"))) / "static" / "drf_spectacular_sidecar" / "swagger-ui-dist"


def schema() -> bytes:
    """`/openapi.json`."""
    return json.dumps(document(settings.NOTIFIER_ROOT), separators=(",", ":"), ensure_ascii=False).encode()


urlpatterns = [
    path("openapi.json", _served(schema, "application/json")),
    path("docs", _html((OWN / "docs.html").read_bytes, data=" data:")),  # Swagger UI's icons
    path("redoc", _html(lambda: page(document(settings.NOTIFIER_ROOT)))),
    *(_file(SWAGGER_UI, name) for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")),
    *(_file(OWN, name) for name in ("docs.js", "docs.css", "redoc.css")),
    re_path(r"^(?:openapi\.json|docs|redoc)/+\Z", redirect_without_slash),
]
