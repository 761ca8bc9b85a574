"""What every request of a client passes before its view sees it: rate limit, token, room in the queue."""

import re
from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from notifier_project.access.rate import RateLimit, client_of
from notifier_project.access.room import Room
from notifier_project.access.scopes import ANY_TOKEN, API, TO_QUEUE, Need, TokenScope, need_of
from notifier_project.access.tokens import Token, TokensFile
from notifier_project.refusals import refuse

# Nobody needs a token for these.
OPEN_PATHS = re.compile(r"/(?:openapi\.json|docs|redoc)(?:/.*)?", re.DOTALL)

CREDENTIALS = re.compile(r"bearer +([^ ,]+) *", re.IGNORECASE)  # RFC 6750, section 2.1; RFC 9110, section 11.4
CHALLENGE = 'Bearer realm="notifier"'  # RFC 6750, section 3


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Refuses requests, by what the settings say. None: nothing is set."""

    tokens: TokensFile | None = None
    rate: RateLimit | None = None
    room: Room | None = None

    @property
    def is_open(self) -> bool:
        """Whether every request outside of the API passes."""
        return not (self.tokens or self.rate or self.room)

    def refusal_to_client(self, request: HttpRequest) -> HttpResponse | None:
        """The answer to a request outside of the API that may not pass. Whatever is posted there queues tasks."""
        if request.path_info.startswith(API):  # it should not have come here: whoever sent it needs what the API asks for
            return self.refusal_in_api(request)
        if self.is_open or OPEN_PATHS.fullmatch(request.path_info):
            return None
        return self._refusal(request, TO_QUEUE if request.method == "POST" else ANY_TOKEN)

    def refusal_in_api(self, request: HttpRequest) -> HttpResponse | None:
        """The answer to a request of the API that may not pass."""
        return self._refusal(request, need_of(request.method, request.path_info))

    def _refusal(self, request: HttpRequest, need: Need) -> HttpResponse | None:
        token, refusal = self._token(request, need)
        if self.rate and (seconds := self.rate.wait(_client(request, token))):
            return refuse(429, "Too Many Requests", {"Retry-After": str(seconds)})
        if refusal:
            return refusal
        if token:
            request.actor = token.name  # type: ignore[attr-defined]  # of ClientsRequest
        if self.room and need.scope is TokenScope.WRITE:
            return self.room.refusal()
        return None

    def _token(self, request: HttpRequest, need: Need) -> tuple[Token | None, HttpResponse | None]:
        """The token that came with the request, and the refusal if it does not do."""
        if self.tokens is None:
            return None, None if need.is_open else _closed()
        known = self.tokens.current()
        if known is None:
            return None, refuse(503, "The tokens can't be read at the moment.", {"Retry-After": "5"})
        credentials = CREDENTIALS.fullmatch(request.META.get("HTTP_AUTHORIZATION", ""))
        if credentials is None:
            return None, refuse(401, "Not authenticated", {"WWW-Authenticate": CHALLENGE})
        token = known.find(credentials[1])
        if token is None:
            return None, refuse(401, "Invalid token", {"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'})
        if need.scope and need.scope not in token.scopes:
            challenge = f'{CHALLENGE}, error="insufficient_scope", scope="{need.scope}"'
            return token, refuse(403, f"This token lacks the scope {need.scope}", {"WWW-Authenticate": challenge})
        return token, None


def _client(request: HttpRequest, token: Token | None) -> str:
    # A name of a token has no blank, so it is no address of anybody.
    return f"token {token.name}" if token else client_of(request.META.get("REMOTE_ADDR", ""))


def _closed() -> HttpResponse:
    return refuse(403, "This needs a token. Whoever runs the service gives tokens, by the setting NOTIFIER_TOKENS_FILE.")


def gate_of_settings() -> Gate:
    """The gate that the settings ask for."""
    return Gate(
        tokens=TokensFile(settings.NOTIFIER_TOKENS_FILE) if settings.NOTIFIER_TOKENS_FILE else None,
        rate=RateLimit(settings.NOTIFIER_RATE_LIMIT, settings.NOTIFIER_WEB_WORKERS) if settings.NOTIFIER_RATE_LIMIT else None,
        room=_room(),
    )


def _room() -> Room | None:
    max_backlog, min_free_disk = settings.NOTIFIER_MAX_BACKLOG, settings.NOTIFIER_MIN_FREE_DISK
    if max_backlog is None and min_free_disk is None:
        return None
    folders = [settings.DATA_DIR, settings.NOTIFIER_LOG_FILE.parent]
    return Room(max_backlog=max_backlog, min_free_disk=min_free_disk, folders=folders)
