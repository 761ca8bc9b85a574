"""The service's settings with immediate retries, and an app whose receivers write to the log."""

from notifier_project.settings import *  # noqa: F403
from notifier_project.settings import INSTALLED_APPS, Q_CLUSTER

INSTALLED_APPS += ["tests.support.writing_receivers.Receivers"]
Q_CLUSTER |= {"backoff_base": 0.0, "max_attempts": 3}
