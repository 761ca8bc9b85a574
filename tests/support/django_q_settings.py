"""The service's settings for django-q2's own tests, which count on a time zone with summer time, and on catching up.

Some run django-q2's loop in the midst of a test's transaction. It closes connections, which only a database in memory
outlives.
"""

from notifier_project.settings import *  # noqa: F403
from notifier_project.settings import DATABASES, Q_CLUSTER

if "sqlite3" in str(DATABASES["default"]["ENGINE"]):
    DATABASES["default"]["TEST"] = {"NAME": None}

TIME_ZONE = "Europe/Amsterdam"
Q_CLUSTER |= {"catch_up": True}
