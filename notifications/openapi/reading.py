"""`/redoc`: the description as a page to read, which works without scripts."""

from collections.abc import Iterator
from pathlib import Path

from django.template import Context, Engine

from notifications.openapi.components import Json

_PAGE = Path(__file__).parent / "files" / "redoc.html"


def page(document: Json) -> bytes:
    """The page of a whole description."""
    shapes = document["components"]["schemas"].items()
    context = {
        "info": document["info"],
        "operations": list(_operations(document)),
        "shapes": [{"name": name, "fields": _fields(schema)} for name, schema in shapes],
    }
    return Engine().from_string(_PAGE.read_text()).render(Context(context)).encode()


def _operations(document: Json) -> Iterator[Json]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parameters = [_found(document, parameter) for parameter in operation.get("parameters", ())]
            answers = {status: _found(document, answer) for status, answer in operation["responses"].items()}
            yield {
                "anchor": operation["operationId"],
                "method": method,
                "path": path,
                "summary": operation["summary"],
                "description": operation["description"],
                "parameters": [
                    parameter | {"place": parameter["in"], "type": _type(parameter["schema"])} for parameter in parameters
                ],
                "body": _body(operation.get("requestBody", {})),
                "answers": [
                    {
                        "status": status,
                        "description": answer["description"],
                        "body": _body(answer),
                        "headers": [*answer.get("headers", ())],
                    }
                    for status, answer in sorted(answers.items())
                ],
            }


def _fields(schema: Json) -> list[Json]:
    return [
        {
            "name": name,
            "type": _type(field),
            "description": field.get("description", ""),
            "required": name in schema.get("required", ()),
        }
        for name, field in schema["properties"].items()
    ]


def _found(document: Json, described: Json) -> Json:
    """What stands in its place, if it is a reference."""
    if "$ref" not in described:
        return described
    _, _, kind, name = described["$ref"].split("/")
    found: Json = document["components"][kind][name]
    return found


def _body(described: Json) -> str:
    """The name of the body's schema, if it has one with a name."""
    schema: Json = described.get("content", {}).get("application/json", {}).get("schema", {})
    reference: str = schema.get("anyOf", [schema])[0].get("$ref", "")  # of several, the first is the usual one
    return reference.rpartition("/")[2]


def _type(schema: Json) -> str:
    """What a value is, in words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    limits = [f"{words} {schema[limit]}" for limit, words in _LIMITS.items() if limit in schema]
    return ", ".join([" ".join(filter(None, (schema.get("type", "anything"), schema.get("format")))), *limits])


_LIMITS = {"minimum": "from", "maximum": "to", "minLength": "characters from", "maxLength": "characters to", "default": "else"}
