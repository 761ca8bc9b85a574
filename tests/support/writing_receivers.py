"""An app whose receivers write to the log, for tasks whose name asks for it."""

from functools import partial
from typing import Any

from django.apps import AppConfig


class Receivers(AppConfig):
    """Connects the receivers."""

    name = "tests.support.writing_receivers"
    label = "writing_receivers"

    def ready(self) -> None:
        """Connect them."""
        from django_q import signals  # noqa: PLC0415 - its module needs the models to be loaded

        for name in ("pre_execute", "post_execute_in_worker", "post_execute"):
            getattr(signals, name).connect(partial(_write_if_asked, name), weak=False)


def _write_if_asked(name: str, sender: str, task: dict[str, Any], **_: object) -> None:
    from notifications.tasks import write_log  # noqa: PLC0415 - its module needs the models to be loaded

    if task["name"].startswith(f"{name}: "):
        write_log(task["name"].partition(": ")[2] + "\n")
