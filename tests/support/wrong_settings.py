"""The service's settings, with a test's changes to them, and to `Q_CLUSTER`."""

import json
import os

from notifier_project.settings import *  # noqa: F403
from notifier_project.settings import DATABASES, Q_CLUSTER

Q_CLUSTER |= json.loads(os.environ.get("TEST_Q_CLUSTER", "{}"))
DATABASES["second"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA_DIR / "second.sqlite3"}  # noqa: F405
globals().update(json.loads(os.environ.get("TEST_SETTINGS", "{}")))
