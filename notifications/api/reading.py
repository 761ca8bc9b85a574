"""What a client can learn of tasks: one, perhaps at its end, and the newest."""

from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse

from durable_queue import status
from durable_queue.states import State
from durable_queue.status import TaskStatus
from durable_queue.store.listing import BadCursorError
from notifications.api import waiting
from notifications.api.parameters import Query, preferred_wait
from notifications.api.showing import as_json, is_quick
from notifications.http import JSON, error

LONGEST_WAIT = 30  # seconds
LARGEST_PAGE = 100
PAGE = 50


async def show_task(request: HttpRequest, task_id: str) -> HttpResponse:
    """The task's state; with `?wait=SECONDS` or `Prefer: wait=SECONDS` at its end, or when the time is up."""
    query = Query(request)
    seconds = query.number("wait", 0.0, least=0, most=LONGEST_WAIT)
    if query.problems:
        return error(422, query.problems)
    applied: dict[str, str] = {}
    preferred = preferred_wait(request.META.get("HTTP_PREFER", ""))
    if preferred is not None and not query.text("wait"):
        seconds = min(preferred, LONGEST_WAIT)
        applied = {"Preference-Applied": f"wait={seconds}"}
    try:
        found = await waiting.status_at_end(request, task_id, seconds) if seconds else await status_now(task_id)
    except waiting.NoPlaceError:
        found, applied = await status_now(task_id), {}
    if found is None:
        return error(404, "Not Found")
    return JSON(await shown(found), headers=applied)


async def status_now(task_id: str) -> TaskStatus | None:
    """The task's present state. Raises django.db.Error."""
    return await sync_to_async(status.status_of)(task_id)


async def shown(found: TaskStatus) -> Any:
    """The task as JSON. One whose result takes long to read does not keep the event loop from others."""
    return as_json(found) if is_quick(found) else await sync_to_async(as_json)(found)


def list_tasks(request: HttpRequest) -> HttpResponse:
    """Tasks, those that were queued last first, a page at a time."""
    query = Query(request)
    state, queue, cursor = query.choice("status", State), query.text("queue"), query.text("cursor")
    limit = query.integer("limit", PAGE, least=1, most=LARGEST_PAGE)
    if query.problems:
        return error(422, query.problems)
    if "\0" in queue:  # no queue has it in its name, and PostgreSQL refuses it
        return JSON({"tasks": [], "next": None})
    try:
        found, following = status.newest(limit=limit, before=cursor or None, state=state, queue=queue)
    except BadCursorError:
        query.refuse("cursor", "cursor", "Input should be the `next` of an earlier page")
        return error(422, query.problems)
    return JSON({"tasks": [as_json(task, in_list=True) for task in found], "next": following})
