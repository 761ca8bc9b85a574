"""The app's registration, and its system checks."""

from django.apps import AppConfig
from django.core.checks import register

from notifications.checks import check_log_file


class NotificationsConfig(AppConfig):
    """What clients call, and what gets written."""

    name = "notifications"

    def ready(self) -> None:
        """Register the system checks."""
        register(check_log_file)
