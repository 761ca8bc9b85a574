"""The endpoints: each reads the request, refuses it or enqueues its writes, and answers at once."""

from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from durable_queue import BackgroundTasks
from durable_queue.intake.idempotency import KeyReusedError
from notifications import programs
from notifications.http import (
    JSON,
    control_character_problems,
    error,
    last_query_value,
    post_only,
    redirect_to_path,
)
from notifications.keys import key_of, key_problems, reused

UNAVAILABLE = "The queue can't be written to at the moment. Please try again."


@csrf_exempt
@post_only
async def send_basic_notification(request: HttpRequest, email: str) -> HttpResponse:
    """Enqueue a task that replaces the log's text with one notification for `email`."""
    if problems := control_character_problems(email=("path", email)):
        return error(422, problems)
    return await answer_when_queued(request, programs.basic(email), "Notification sent in the background")


@csrf_exempt
@post_only
async def send_notification(request: HttpRequest, email: str) -> HttpResponse:
    """Enqueue a task that appends the query `q`, if there is one, and a message to `email`."""
    q = last_query_value(request, "q")
    if problems := control_character_problems(email=("path", email), q=("query", q)):
        return error(422, problems)
    return await answer_when_queued(request, programs.query(email, q), "Message sent")


async def answer_when_queued(request: HttpRequest, tasks: BackgroundTasks, message: str) -> HttpResponse:
    """Answer 200 once the tasks are committed to the queue, and 503 when the commit may have failed.

    A request that is repeated with its `Idempotency-Key` queues nothing, and gets the same answer.
    """
    if problems := key_problems(request):
        return error(422, problems)
    try:
        task_id = await tasks.aenqueue(key_of(request))
    except KeyReusedError:
        return error(422, [reused(request)])
    except DatabaseError:
        return error(503, UNAVAILABLE, {"Retry-After": "1"})
    return JSON({"message": message}, headers={"Task-Id": task_id} if task_id else None)


@csrf_exempt
async def redirect_without_slash(request: HttpRequest) -> HttpResponse:
    """Redirect any method to the same path without its trailing slashes."""
    return redirect_to_path(request, request.path.rstrip("/"))
