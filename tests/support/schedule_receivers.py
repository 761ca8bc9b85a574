"""A project's receivers that are bad for one schedule, in the upkeep process. The names of the schedules say how bad."""

import os
import re
import signal
import time
from typing import Any

from django.apps import AppConfig


class Receivers(AppConfig):
    """Connects them."""

    name = "tests.support.schedule_receivers"
    label = "schedule_receivers"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect them."""
        from django.db.models.signals import pre_delete  # noqa: PLC0415 - the models must be loaded
        from django_q.models import Schedule  # noqa: PLC0415
        from django_q.signals import pre_enqueue  # noqa: PLC0415

        from durable_queue.upkeep import life  # noqa: PLC0415

        life.STILL = 2.0  # so that the tests are quicker
        pre_enqueue.connect(_enqueue)
        pre_delete.connect(_delete, sender=Schedule)


def _enqueue(sender: str, task: dict[str, Any], **_: object) -> None:
    group = str(task.get("group"))
    if group == "hangs":
        time.sleep(3600)
    if group == "hangs in C":
        re.match(r"(a+)+$", "a" * 64 + "b")  # it holds the interpreter's lock
    if group == "kills":
        os.kill(os.getpid(), signal.SIGKILL)


def _delete(instance: Any, **_: object) -> None:
    if instance.name == "hangs in its deletion":
        time.sleep(3600)
