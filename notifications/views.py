"""The endpoints: each reads the request, refuses it or enqueues its writes, and answers at once."""

from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from durable_queue import BackgroundTasks
from notifications.http import (
    JSON,
    control_character_problems,
    error,
    last_query_value,
    post_only,
    redirect_to_path,
)
from notifications.tasks import write_log, write_notification


@csrf_exempt
@post_only
async def send_basic_notification(request: HttpRequest, email: str) -> HttpResponse:
    """Enqueue a task that replaces the log's text with one notification for `email`."""
    if problems := control_character_problems(email=("path", email)):
        return error(422, problems)
    tasks = BackgroundTasks(name=f"notification for {email}")
    tasks.add_task(write_notification, email, message="some notification")
    return await answer_when_queued(tasks, "Notification sent in the background")


@csrf_exempt
@post_only
async def send_notification(request: HttpRequest, email: str) -> HttpResponse:
    """Enqueue a task that appends the query `q`, if there is one, and a message to `email`."""
    q = last_query_value(request, "q")
    if problems := control_character_problems(email=("path", email), q=("query", q)):
        return error(422, problems)
    tasks = BackgroundTasks(name=f"message to {email}")
    log_query(tasks, q)
    tasks.add_task(write_log, f"message to {email}\n")
    return await answer_when_queued(tasks, "Message sent")


def log_query(tasks: BackgroundTasks, q: str | None) -> None:
    """Add the write for a query: the part that is a dependency in FastAPI's tutorial."""
    if q:
        tasks.add_task(write_log, f"found query: {q}\n")


async def answer_when_queued(tasks: BackgroundTasks, message: str) -> HttpResponse:
    """Answer 200 once the tasks are committed to the queue, and 503 when the commit may have failed."""
    try:
        await tasks.aenqueue()
    except DatabaseError:
        return error(503, "The queue can't be written to at the moment. Please try again.", {"Retry-After": "1"})
    return JSON({"message": message})


@csrf_exempt
async def redirect_without_slash(request: HttpRequest) -> HttpResponse:
    """Redirect any method to the same path without its trailing slashes."""
    return redirect_to_path(request, request.path.rstrip("/"))
