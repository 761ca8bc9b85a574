"""The site's own app: it has the checks of the site's settings."""

from django.apps import AppConfig
from django.core.checks import register


class SiteConfig(AppConfig):
    """The site."""

    name = "notifier_project"

    def ready(self) -> None:
        """Register the system checks."""
        from notifier_project import checks  # noqa: PLC0415 - they read the settings

        for check in (checks.check_tokens, checks.check_proxies):
            register(check)
