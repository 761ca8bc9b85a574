"""The ASGI application, for any ASGI server: `uvicorn notifier_project.asgi:application`."""

import os
from collections.abc import Mapping
from importlib import import_module

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier_project.settings")

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.conf import settings
from django.core.handlers.asgi import get_script_prefix
from django.http import HttpResponse

from notifier_project.access.gate import gate_of_settings
from notifier_project.access.proxies import Proxies
from notifier_project.access.scopes import API
from notifier_project.api import ApiHandler
from notifier_project.clients import ClientsHandler, Scope, Send, respond
from notifier_project.people import PeopleHandler, Receive
from notifier_project.refusals import refuse
from notifier_project.threads import use_threads

# Who answers which path, by its beginning: of the path that Django resolves, which has none of the server's `root_path`.
#
# People: all of Django, with middleware, sessions and forms. Each process answers them in one thread, one at a time.
FOR_PEOPLE = (settings.ADMIN_PATH, settings.STATIC_URL)
# The API: bodies and errors in JSON, in four threads of its own.
FOR_API = (API,)
# Everything else: the clients, in the event loop. Their bodies are not read.

ONE_THREAD = ThreadSensitiveContext()  # without it, each request has a thread, and each thread a database connection

for_people = PeopleHandler()
gate = gate_of_settings()
for_api = ApiHandler(gate)
for_clients = ClientsHandler(gate)
proxies = Proxies(settings.NOTIFIER_TRUSTED_PROXIES)
import_module(settings.ROOT_URLCONF)  # now, so that the first request does not wait for these imports


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one HTTP request. Raises ValueError for lifespan and WebSocket scopes: servers take that as "not supported"."""
    if scope["type"] != "http":
        raise ValueError(f"This is an application for HTTP, not for {scope['type']}")
    proxies.apply(scope)
    path = scope["path"].removeprefix(get_script_prefix(scope))
    if path.startswith(FOR_PEOPLE):
        SyncToAsync.thread_sensitive_context.set(ONE_THREAD)
        if refusal := _refusal(dict(scope["headers"])):
            await respond(refusal, send)
        else:
            await for_people(scope, receive, send)
        return
    use_threads()
    if path.startswith(FOR_API):
        await for_api(scope, receive, send)
    else:
        await for_clients(scope, send)


def _refusal(headers: Mapping[bytes, bytes]) -> HttpResponse | None:
    """The response to a body that may be longer than any form. Django would store all of it before it checks anything."""
    if b"transfer-encoding" in headers:
        return refuse(411, "Length Required")
    longest = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    if longest is not None and int(headers.get(b"content-length", b"0")) > longest:
        return refuse(413, "Content Too Large")
    return None
