"""The two programs' routes, as FastAPI describes them (tests/test_openapi.py compares), and what Notifier adds."""

from notifications.openapi.components import Json, content, ref

_PROGRAMS: dict[str, list[Json]] = {
    "basic": [],
    "query": [
        {
            "name": "q",
            "in": "query",
            "required": False,
            "schema": {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "Q"},
        }
    ],
}

_EMAIL = {"name": "email", "in": "path", "required": True, "schema": {"type": "string", "title": "Email"}}


def _operation(program: str, prefix: str) -> Json:
    """A program's `POST`, at the path that begins with `prefix`."""
    answer = {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "title": "Response Send Notification Send Notification  Email  Post",
    }
    refusals = {status: ref("responses", status) for status in ("307", "400", "401", "403", "404", "429", "503")}
    return {
        "summary": "Send Notification",
        "description": "Answer, then write.",
        "operationId": f"send_notification{prefix.replace('/', '_')}_send_notification__email__post",
        "parameters": [_EMAIL, *_PROGRAMS[program], ref("parameters", "Idempotency-Key")],
        "responses": {
            "200": {
                "description": "Successful Response",
                "headers": {"Task-Id": ref("headers", "Task-Id")},
                "content": {"application/json": {"schema": answer}},
            },
            "422": {"description": "Validation Error", "content": content("HTTPValidationError")},
            **refusals,
        },
    }


def paths(root: str) -> Json:
    """The paths of the two programs. `root`: the one at the bare path, `query` or `basic`."""
    return {
        "/send-notification/{email}": {"post": _operation(root, "")},
        "/basic/send-notification/{email}": {"post": _operation("basic", "/basic")},
    }
