"""What several endpoints have in common: the shapes of bodies, the errors, the parameters."""

from typing import Any

from durable_queue.states import State

Json = dict[str, Any]

STATES = [state.value for state in State]
ID = {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "32 hexadecimal digits."}


def ref(kind: str, name: str) -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def or_null(schema: Json, description: str) -> Json:
    """A value that may be missing."""
    return {"anyOf": [schema, {"type": "null"}], "description": description}


def moment(description: str) -> Json:
    """A moment, or null."""
    return or_null({"type": "string", "format": "date-time"}, f"{description} RFC 3339, in UTC.")


def milliseconds(description: str) -> Json:
    """A time, or null."""
    return or_null({"type": "number", "minimum": 0}, f"{description} Milliseconds.")


def number(description: str) -> Json:
    """A number of something: not negative."""
    return {"type": "integer", "minimum": 0, "description": description}


def content(*names: str) -> Json:
    """A body in JSON with the schema of this name, or of one of these names."""
    schemas = [ref("schemas", name) for name in names]
    return {"application/json": {"schema": {"anyOf": schemas} if len(schemas) > 1 else schemas[0]}}


def _error(description: str, *headers: str, name: str = "Error") -> Json:
    shown = {"headers": {header: ref("headers", header) for header in headers}} if headers else {}
    return {"description": description, "content": content(name)} | shown


# As FastAPI writes them, word for word: tests/test_openapi.py compares.
_VALIDATION = {
    "HTTPValidationError": {
        "properties": {
            "detail": {"items": ref("schemas", "ValidationError"), "type": "array", "title": "Detail"},
        },
        "type": "object",
        "title": "HTTPValidationError",
    },
    "ValidationError": {
        "properties": {
            "loc": {"items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "type": "array", "title": "Location"},
            "msg": {"type": "string", "title": "Message"},
            "type": {"type": "string", "title": "Error Type"},
            "input": {"title": "Input"},
            "ctx": {"type": "object", "title": "Context"},
        },
        "type": "object",
        "required": ["loc", "msg", "type"],
        "title": "ValidationError",
    },
}

_TASK = {
    "id": ID,
    "status": {"type": "string", "enum": STATES},
    "name": {"type": "string"},
    "attempts": number("That have begun since it was queued last."),
    "max_attempts": or_null({"type": "integer", "minimum": 1}, "Null: any number."),
    "enqueued_at": moment("When it was queued."),
    "due_at": moment("Before it, the task is not begun."),
    "started_at": moment("When its last attempt began; null while none has."),
    "finished_at": moment("When its last attempt ended."),
    "wait_ms": milliseconds("From enqueued to started."),
    "run_ms": milliseconds("From started to finished."),
    "progress": {
        "type": "object",
        "properties": {"done": number("Calls that are done."), "of": number("Calls that the task has.")},
        "required": ["done", "of"],
    },
    "cancel_requested_at": moment("When somebody asked to have it cancelled."),
    "result": {"description": "What it returned, once it has succeeded."},
    "result_is_repr": {"type": "boolean", "description": "Whether `result` is Python's text of a value that JSON can't hold."},
    "error": or_null({"type": "string"}, "Type and message of the last attempt that failed, in one line."),
}

_SCHEMAS: Json = _VALIDATION | {
    "Error": {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]},
    "Task": {"type": "object", "properties": _TASK, "required": list(_TASK)},
    "TaskId": {
        "type": "object",
        "description": "Of a task that is kept nowhere any more.",
        "properties": {"id": ID},
        "required": ["id"],
    },
    "TaskList": {
        "type": "object",
        "properties": {
            "tasks": {"type": "array", "items": ref("schemas", "Task")},
            "next": or_null({"type": "string"}, "The cursor of the next page; null: this is the last one."),
        },
        "required": ["tasks", "next"],
    },
    "Tasks": {
        "type": "object",
        "properties": {"tasks": {"type": "array", "items": ref("schemas", "Task")}},
        "required": ["tasks"],
    },
}


def schemas() -> Json:
    """The shapes of all bodies; those that clients send as the models that read them say."""
    from notifications.api.new_tasks import NewTasks  # noqa: PLC0415 - see there

    new_tasks = NewTasks.model_json_schema(ref_template="#/components/schemas/{model}")
    models: Json = new_tasks.pop("$defs")
    return _SCHEMAS | models | {"NewTasks": new_tasks}


HEADERS: Json = {
    "Task-Id": {"required": True, "description": "The id of the task: `GET /tasks/{id}` tells how it goes.", "schema": ID},
    "Location": {"required": True, "description": "Where it is.", "schema": {"type": "string"}},
    "Preference-Applied": {"description": "`wait=N`, if `Prefer` was heeded (RFC 7240).", "schema": {"type": "string"}},
    "Retry-After": {
        "required": True,
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"required": True, "description": "`Bearer`: a token is wanted.", "schema": {"type": "string"}},
}

RESPONSES: Json = {
    "307": {"description": "The same path without the slash at its end.", "headers": {"Location": ref("headers", "Location")}},
    "400": _error("The request is no proper HTTP, or its Host is not one of NOTIFIER_ALLOWED_HOSTS."),
    "401": _error("A token is wanted, or it is wrong.", "WWW-Authenticate"),
    "403": _error("The token lacks the scope; or there are no tokens, and the endpoint needs one."),
    "404": _error("There is no such path or task, or it is not kept any more."),
    "408": _error("The body did not come in time."),
    "409": _error("The task's state forbids it."),
    "413": _error("The body has more than 1 MB."),
    "415": _error("The body is not JSON."),
    "422": _error("Validation Error", name="HTTPValidationError"),
    "429": _error("Too many requests from this client.", "Retry-After"),
    "503": _error("Not possible at the moment. What was to be queued is queued at most once.", "Retry-After"),
}

PARAMETERS: Json = {
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same request with the same key, within 24 hours, is answered again and queues nothing.",
        "required": False,
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    "id": {"name": "id", "in": "path", "description": "The task's id.", "required": True, "schema": {"type": "string"}},
}

SECURITY: Json = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of NOTIFIER_TOKENS_FILE. Without such a file none is wanted.",
    }
}
