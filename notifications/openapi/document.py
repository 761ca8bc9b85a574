"""The whole description of the service."""

from notifications.openapi import components, routes, tasks
from notifications.openapi.components import Json

_ABOUT = (
    "A POST is answered at once. What it asks for is done in the background, exactly once, whatever is killed in between; "
    "the header `Task-Id` of the answer is the id by which `/tasks` tells how it goes."
)


def document(root: str) -> Json:
    """The description of a service with this program (`query` or `basic`) at the bare path."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Notifier", "version": "0.2.0", "description": _ABOUT},
        "paths": routes.paths(root) | tasks.PATHS,
        "components": {
            "schemas": components.schemas(),
            "headers": components.HEADERS,
            "parameters": components.PARAMETERS,
            "responses": components.RESPONSES,
            "securitySchemes": components.SECURITY,
        },
        "security": [{}, {"bearer": []}],
    }
