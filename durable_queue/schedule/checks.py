"""System checks of what schedules depend on."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error

from durable_queue.schedule.rule import RuleError
from durable_queue.schedule.zones import zone_named


def check_zone(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Without its zone, no schedule could be computed that follows a clock on the wall."""
    try:
        zone_named("")
    except RuleError as error:
        hint = "Set NOTIFIER_TIME_ZONE to a name such as Europe/Berlin, or unset it: then TIME_ZONE counts. If the system "
        hint += "has no time zones at all: pip install tzdata."
        return [Error(f"NOTIFIER_TIME_ZONE: {error}.", hint=hint, id="durable_queue.E011")]
    return []


def check_order(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Of two apps with a command or a template of the same name, Django takes that of the first."""
    labels = [config.name for config in apps.get_app_configs()]
    if labels.index("durable_queue") < labels.index("django_q"):
        return []
    return [
        Error(
            "INSTALLED_APPS lists durable_queue after django_q: `qcluster` would start django-q2's own cluster and scheduler.",
            hint='List "durable_queue" before "django_q".',
            id="durable_queue.E010",
        )
    ]
