"""The service's settings, with receivers that are bad for some schedules."""

from notifier_project.settings import *  # noqa: F403
from notifier_project.settings import INSTALLED_APPS, Q_CLUSTER

INSTALLED_APPS += ["tests.support.schedule_receivers.Receivers"]
Q_CLUSTER |= {"workers": 1, "threads": 4}
