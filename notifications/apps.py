"""The app's registration, and its system checks."""

from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    """What clients call, and what gets written."""

    name = "notifications"

    def ready(self) -> None:
        """Register the system checks."""
        from notifications import checks  # noqa: F401
