"""The app's configuration."""

from typing import Any

from django.apps import AppConfig
from django.core.checks import register

from durable_queue.signals import worker_started
from notifications.checks import check_log_file


class NotificationsConfig(AppConfig):
    """The endpoints that clients call, and the tasks that write to the log."""

    name = "notifications"

    def ready(self) -> None:
        """Register the system checks, and let each worker open the log when it starts."""
        register(check_log_file)
        worker_started.connect(_open_log, dispatch_uid="notifications")


def _open_log(**kwargs: Any) -> None:
    from notifications.tasks import open_log  # noqa: PLC0415 - it imports models, which must be loaded first

    open_log()
