"""Queue tasks: one, or many together, each for now or for later."""

from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse

from durable_queue.intake import together
from durable_queue.intake.idempotency import KeyReusedError
from notifications.api.showing import as_json
from notifications.http import JSON, error
from notifications.keys import key_of, key_problems, reused
from notifications.views import UNAVAILABLE


def queue_task(request: HttpRequest) -> HttpResponse:
    """Queue one task: 202, with its place and what it is like."""
    return _queue(request, are_many=False)


def queue_tasks(request: HttpRequest) -> HttpResponse:
    """Queue tasks, all or none: 202, with what they are like, in their order."""
    return _queue(request, are_many=True)


def _queue(request: HttpRequest, *, are_many: bool) -> HttpResponse:
    from notifications.api import new_tasks  # noqa: PLC0415 - see there

    if request.META.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
        return error(415, "Unsupported Media Type")
    new, problems = new_tasks.read(request.body, are_many=are_many)
    if problems := key_problems(request) + problems:
        return error(422, problems)
    try:
        queued = together.enqueue([task.queued() for task in new], key_of(request, request.body))
    except KeyReusedError:
        return error(422, [reused(request)])
    except DatabaseError:
        return error(503, UNAVAILABLE, {"Retry-After": "1"})
    shown = [as_json(status) for status in queued]
    if are_many:
        return JSON({"tasks": shown}, status=202)
    return JSON(shown[0], status=202, headers={"Location": f"{request.META['SCRIPT_NAME']}/tasks/{queued[0].id}"})
