"""Which view answers which method of a path."""

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from notifications.http import View, error


def by_method(**views: Callable[..., Any]) -> View:
    """A view that leaves each method to another one, and answers the others with 405, HEAD and OPTIONS too.

    A synchronous view runs in one of the API's threads. No answer is for a cache: the next moment has another one.
    """
    in_loop = {method: view if iscoroutinefunction(view) else sync_to_async(view) for method, view in views.items()}

    @csrf_exempt
    async def answer(request: HttpRequest, **named: Any) -> HttpResponse:
        view = in_loop.get(request.method or "")
        if view is None:
            return error(405, "Method Not Allowed", {"Allow": ", ".join(in_loop)})
        response: HttpResponse = await view(request, **named)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return answer
