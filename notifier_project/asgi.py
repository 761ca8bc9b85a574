"""The ASGI application: `uvicorn notifier_project.asgi:application`, or any other server."""

import os
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier_project.settings")

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, JsonResponse

from notifier_project.clients import ClientsHandler, Scope, Send, respond

Receive = Callable[[], Awaitable[Any]]

# Paths that are answered by all of Django: middleware, sessions, forms. In a thread, one after the other in each process.
FOR_PEOPLE = (settings.ADMIN_PATH, settings.STATIC_URL)
ONE_THREAD = ThreadSensitiveContext()  # Django would have a thread for each request, and a database connection for each thread

for_people = get_asgi_application()
for_clients = ClientsHandler()
import_module(settings.ROOT_URLCONF)  # so that the first request need not wait for all that it names


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The service. Raises ValueError for what is no HTTP; a server takes that for "no lifespan events, no WebSockets"."""
    if scope["type"] != "http":
        raise ValueError(f"This is an application for HTTP, not for {scope['type']}")
    SyncToAsync.thread_sensitive_context.set(ONE_THREAD)
    if not scope["path"].startswith(FOR_PEOPLE):
        await for_clients(scope, send)
    elif refusal := _refusal(dict(scope["headers"])):
        await respond(refusal, send)
    else:
        await for_people(scope, receive, send)


def _refusal(headers: Mapping[bytes, bytes]) -> HttpResponse | None:
    """What is said to a body that may be longer than any form: Django stores all of it before it looks at anything else."""
    if b"transfer-encoding" in headers:
        return JsonResponse({"detail": "Length Required"}, status=411)
    longest = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    if longest is not None and int(headers.get(b"content-length", b"0")) > longest:
        return JsonResponse({"detail": "Content Too Large"}, status=413)
    return None
