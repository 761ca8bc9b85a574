"""System checks of the site's settings: what can't be seen from their values alone."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004

from notifier_project.access import tokens

LOOPBACK = ("127.", "::1", "localhost")


def check_tokens(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that the tokens can be read, by nobody else."""
    if settings.NOTIFIER_TOKENS_FILE is None:
        return []
    try:
        tokens.read(settings.NOTIFIER_TOKENS_FILE)
    except tokens.TokensError as error:
        remedy = "A line each: a name, a token, and scopes such as write,read,manage, with blanks between; mode 600."
        return [Error(f"NOTIFIER_TOKENS_FILE: {error}.", hint=remedy, id="notifier.E001")]
    return []


def check_proxies(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that a proxy on another machine is believed."""
    is_default = settings.NOTIFIER_TRUSTED_PROXIES == settings.LOOPBACK
    if not settings.HTTPS or not is_default or settings.HOST.startswith(LOOPBACK):
        return []
    reason = "NOTIFIER_HTTPS is on, and only proxies on this machine are believed when they say that a request came by HTTPS."
    remedy = "If the proxy is elsewhere, name its address: NOTIFIER_TRUSTED_PROXIES=10.0.0.2; else set HOST=127.0.0.1."
    return [Warning(reason, hint=remedy, id="notifier.W001")]
