"""System checks: a mistake that would make every write fail is reported at the start, with its remedy."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004

from notifications.log.owner import other_owner


def check_log_file(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that the log, or the folder in which it will be made, exists and can be written to."""
    path: Path = settings.NOTIFIER_LOG_FILE
    hint = "Set NOTIFIER_LOG_FILE to a file in a folder that the service may write to."
    # os.path: pathlib raises PermissionError for a path through a folder that may not be entered.
    if os.path.isdir(path):
        return [Error(f"The log file {path} is a folder.", hint=hint, id="notifications.E001")]
    if not os.path.isdir(path.parent):
        reason = f"The log file's folder {path.parent} does not exist, or can't be entered."
        return [Error(reason, hint=hint, id="notifications.E002")]
    if not os.access(path if os.path.exists(path) else path.parent, os.W_OK):
        return [Error(f"The log file {path} can't be written to.", hint=hint, id="notifications.E003")]
    try:
        other = other_owner(path, settings.DATA_DIR / "journal" / "log")
    except OSError:
        other = None  # the first write will report it
    if other:
        reason = f"The log file {path} is in use by the service with the data folder {other}, not {settings.DATA_DIR}."
        remedy = "Use the same data folder (NOTIFIER_DATA_DIR), or another log (NOTIFIER_LOG_FILE)."
        return [Error(reason, hint=remedy, id="notifications.E004")]
    if os.path.ismount(path) or not os.access(path.parent, os.W_OK):
        reason = f"Nothing can be renamed over the log {path}: it will be overwritten, and a reader may see it half-written."
        remedy = "Mount the log's folder, not the file, and let the service write to that folder."
        return [Warning(reason, hint=remedy, id="notifications.W001")]
    return []
