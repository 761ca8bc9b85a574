"""The paths of `/tasks`: queue tasks, look at them, act on them."""

from notifications.openapi.components import STATES, Json, content, ref

_ANYWHERE = ("400", "401", "403", "408", "413", "422", "429", "503")
_KEY = ref("parameters", "Idempotency-Key")
_ID = ref("parameters", "id")


def _operation(summary: str, description: str, operation: str, *, answers: Json, refusals: tuple[str, ...] = ()) -> Json:
    """An operation with its answers, its own refusals and those of all endpoints."""
    refused = {status: ref("responses", status) for status in sorted({*_ANYWHERE, *refusals})}
    return {"summary": summary, "description": description, "operationId": operation, "responses": answers | refused}


def _answer(description: str, name: str, *headers: str) -> Json:
    shown = {"headers": {header: ref("headers", header) for header in headers}} if headers else {}
    return {"description": description, "content": content(name)} | shown


def _acted(description: str) -> Json:
    """The answer of a verb. A task that ends while it is asked for need not be kept."""
    return {"description": description, "content": content("Task", "TaskId")}


def _verb(summary: str, description: str, operation: str, answers: Json) -> Json:
    """An operation that acts on one task."""
    acts = _operation(summary, f"{description} Scope: `manage`.", operation, answers=answers, refusals=("307", "404", "409"))
    return acts | {"parameters": [_ID]}


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "description": description, "required": False, "schema": schema}


def _body(name: str) -> Json:
    return {"required": True, "content": content(name)}


_list = _operation(
    "List tasks",
    "The newest first, page by page. Scope: `read`.",
    "list_tasks",
    answers={"200": _answer("A page of tasks.", "TaskList")},
) | {
    "parameters": [
        _query("status", {"type": "string", "enum": STATES}, "Only those in this state."),
        _query("queue", {"type": "string"}, "Only those of this queue."),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}, "Tasks of a page."),
        _query("cursor", {"type": "string"}, "`next` of the page before."),
    ]
}

_queue = _operation(
    "Queue a task",
    "Now, after a delay or at a moment. Scope: `write`.",
    "queue_task",
    answers={"202": _answer("It is queued.", "Task", "Location")},
    refusals=("415",),
) | {"parameters": [_KEY], "requestBody": _body("NewTask")}

_queue_many = _operation(
    "Queue many tasks",
    "All or none, in one transaction. Scope: `write`.",
    "queue_tasks",
    answers={"202": _answer("All are queued.", "Tasks")},
    refusals=("415",),
) | {"parameters": [_KEY], "requestBody": _body("NewTasks")}

_show = _operation(
    "Show a task",
    "Its state and what is known of it; with `wait`, once it has ended. Scope: `read`.",
    "show_task",
    answers={"200": _answer("The task.", "Task", "Preference-Applied")},
    refusals=("307", "404"),
) | {
    "parameters": [
        _ID,
        _query("wait", {"type": "number", "minimum": 0, "maximum": 30}, "Seconds to wait for its end."),
        {
            "name": "Prefer",
            "in": "header",
            "description": "`wait=N`, as the parameter `wait` (RFC 7240).",
            "required": False,
            "schema": {"type": "string"},
        },
    ]
}

_delete = _verb(
    "Delete a task",
    "One that has ended, with its attempts.",
    "delete_task",
    {"204": {"description": "It is deleted."}},
)

_cancel = _verb(
    "Cancel a task",
    "One that waits never runs; a running one is asked to stop.",
    "cancel_task",
    {"200": _acted("It is cancelled."), "202": _acted("It runs, and is asked to stop.")},
)

_retry = _verb(
    "Retry a task",
    "One that has failed or was cancelled is queued again, with the same id.",
    "retry_task",
    {"200": _acted("It is queued.")},
)

_run_now = _verb(
    "Run a task now",
    "One that is scheduled, or waits for its next attempt.",
    "run_task_now",
    {"200": _acted("It is due.")},
)

PATHS: Json = {
    "/tasks": {"get": _list, "post": _queue},
    "/tasks/bulk": {"post": _queue_many},
    "/tasks/{id}": {"get": _show, "delete": _delete},
    "/tasks/{id}/cancel": {"post": _cancel},
    "/tasks/{id}/retry": {"post": _retry},
    "/tasks/{id}/run-now": {"post": _run_now},
}
