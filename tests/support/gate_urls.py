"""Views that hang, wait and tell what has reached them. Each waits for files in the folder that GATE_FOLDER names."""

import asyncio
import os
import sys
import time
from pathlib import Path

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django_q.models import OrmQ, Task

from notifications.http import JSON, by_method
from notifier_project import api, threads
from notifier_project.urls import handler400, handler403, handler404, handler500  # noqa: F401 - Django looks for them here
from notifier_project.urls import urlpatterns as service_urls

FOLDER = Path(os.environ.get("GATE_FOLDER", "."))

# Limits that are shorter in some tests.
api.BODY_SECONDS = float(os.environ.get("GATE_BODY_SECONDS", api.BODY_SECONDS))
api.MOST_HELD = int(os.environ.get("GATE_MOST_HELD", api.MOST_HELD))
threads.ANSWER = float(os.environ.get("GATE_ANSWER", threads.ANSWER))


def tell(request: HttpRequest, **_: str) -> HttpResponse:
    """Tell what has reached the view."""
    meta = request.META
    said = {
        "actor": getattr(request, "actor", None),
        "body": request.body.decode()[:100],
        "length": len(request.body),
        "type": getattr(request, "content_type", None),
        "client": meta.get("REMOTE_ADDR"),
        "scheme": request.scheme,
        "host": request.get_host(),
        "forwarded": sorted(name for name in meta if "FORWARDED" in name),
    }
    return JSON(said)


async def tell_client(request: HttpRequest) -> HttpResponse:
    """The same, outside of the API, where no body is read."""
    request._body = b""
    return tell(request)


def hang(request: HttpRequest) -> HttpResponse:
    """Hang until the test ends it."""
    with (FOLDER / "hanging").open("a") as file:
        file.write("!")
    while not (FOLDER / "go").exists():
        time.sleep(0.01)
    return JSON("went on")


def write(request: HttpRequest) -> HttpResponse:
    """Write to the queue's table."""
    OrmQ.objects.create(key="elsewhere", payload="")
    return JSON("written")


def look(request: HttpRequest) -> HttpResponse:
    """Ask the database something that waits for nobody."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JSON("looked")


def history(request: HttpRequest) -> HttpResponse:
    """Look into the history."""
    return JSON(Task.objects.count())


async def wait(request: HttpRequest) -> HttpResponse:
    """Wait for ever; tell, by a file, once that was given up."""
    (FOLDER / "waiting").touch()
    try:
        await asyncio.sleep(3600)
    finally:
        (FOLDER / "given up").touch()
    return JSON("never")


def leave(request: HttpRequest) -> HttpResponse:
    """End the process, if it lets itself be ended."""
    sys.exit()


def fail(request: HttpRequest) -> HttpResponse:
    """Fail."""
    raise ValueError("a secret of the view's")


urlpatterns = [
    path("tasks/tell", by_method(GET=tell, POST=tell)),
    path("tasks/hang", hang),
    path("tasks/write", write),
    path("tasks/look", look),
    path("tasks/history", history),
    path("tasks/wait", wait),
    path("tasks/fail", fail),
    path("tasks/leave", by_method(GET=leave)),
    path("tasks", by_method(GET=tell, POST=tell)),
    path("tasks/bulk", by_method(POST=tell)),
    path("tasks/<str:task>", by_method(GET=tell, DELETE=tell)),
    path("tasks/<str:task>/<str:verb>", by_method(POST=tell)),
    path("tell", tell_client),
    path("openapi.json", tell_client),
    path("admin/hang/", hang),
    *service_urls,
]
