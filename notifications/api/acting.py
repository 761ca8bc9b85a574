"""What a client can do to a task: each view is one verb, and its answer says what came of it."""

from django.http import HttpRequest, HttpResponse

from durable_queue import verbs
from durable_queue.status import status_of
from durable_queue.verbs import Came, NotKeptError
from notifications.api.showing import as_json
from notifications.http import JSON, error

ANONYMOUS = "anonymous"  # who needs no token


def cancel(request: HttpRequest, task_id: str) -> HttpResponse:
    """Cancel a task: 200 for one that waited, or was cancelled before; 202 for a running one, which was asked to end."""
    came = verbs.cancel(task_id, by=actor(request))
    outcome = {Came.DONE: 200, Came.NOTHING: 200, Came.ASKED: 202}.get(came, came)
    return answer(task_id, outcome, "It has ended already.")


def retry(request: HttpRequest, task_id: str) -> HttpResponse:
    """Queue a failed or cancelled task again, under the same id."""
    try:
        came = verbs.retry(task_id, by=actor(request))
    except NotKeptError as problem:
        return error(409, str(problem))
    return answer(task_id, {Came.DONE: 200}.get(came, came), "Only a failed or cancelled task can be retried.")


def run_now(request: HttpRequest, task_id: str) -> HttpResponse:
    """Have a task that waits for its time run now. For a queued one there is nothing to do."""
    came = verbs.run_now(task_id, by=actor(request))
    outcome = {Came.DONE: 200, Came.NOTHING: 200}.get(came, came)
    return answer(task_id, outcome, "Only a task that waits can be run now.")


def delete(request: HttpRequest, task_id: str) -> HttpResponse:
    """Delete an ended task with its attempts."""
    came = verbs.delete(task_id, by=actor(request))
    if came == Came.DONE:
        response = HttpResponse(status=204)
        del response["Content-Type"]
        return response
    return answer(task_id, came, "It has not ended. Cancel it first.")


def answer(task_id: str, outcome: int | Came, refusal: str) -> HttpResponse:
    """The task, with a status for what was done; else 404 or 409. Of one that is kept nowhere any more, its id alone."""
    if outcome == Came.UNKNOWN:
        return error(404, "Not Found")
    if not isinstance(outcome, int):
        return error(409, refusal)
    found = status_of(task_id)
    return JSON(as_json(found) if found else {"id": task_id}, status=outcome)


def actor(request: HttpRequest) -> str:
    """Who asks: the name of a token, or the address that an anonymous request came from."""
    name: str = getattr(request, "actor", ANONYMOUS)
    return f"{name} at {request.META.get('REMOTE_ADDR', 'an unknown address')}" if name == ANONYMOUS else name
