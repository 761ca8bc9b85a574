"""What every request of a client passes before its view sees it."""

from django.http import HttpRequest, HttpResponse

from notifier_project.access.scopes import ANY_TOKEN, TO_QUEUE, Need, need_of
from notifier_project.refusals import refuse

# Nobody needs a token for these.
OPEN_PATHS = frozenset({"/openapi.json", "/docs", "/redoc"})


class Gate:
    """Refuses requests, by what the settings say."""

    def refusal_to_client(self, request: HttpRequest) -> HttpResponse | None:
        """The answer to a request outside of the API that may not pass. Whatever is posted there queues tasks."""
        if request.path_info in OPEN_PATHS:
            return None
        return self._refusal(request, TO_QUEUE if request.method == "POST" else ANY_TOKEN)

    def refusal_in_api(self, request: HttpRequest) -> HttpResponse | None:
        """The answer to a request of the API that may not pass."""
        return self._refusal(request, need_of(request.method, request.path_info))

    def _refusal(self, request: HttpRequest, need: Need) -> HttpResponse | None:
        if not need.is_open:
            return refuse(403, "This needs a token. The service's owner can give tokens, by the setting NOTIFIER_TOKENS_FILE.")
        return None
