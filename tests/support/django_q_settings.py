"""The service's settings for django-q2's own tests, which need a time zone with summer time, and `catch_up`.

Some of these tests run django-q2's loop inside a test's transaction. It closes connections; only a database in memory
survives that.
"""

from notifier_project.settings import *  # noqa: F403
from notifier_project.settings import DATABASES, Q_CLUSTER

if "sqlite3" in str(DATABASES["default"]["ENGINE"]):
    DATABASES["default"]["TEST"] = {"NAME": None}

TIME_ZONE = "Europe/Amsterdam"
Q_CLUSTER |= {"catch_up": True}
