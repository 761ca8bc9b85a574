"""The service's settings, with one test's changes to `Q_CLUSTER`, and an app that notes django-q2's signals."""

import json
import os

from notifier_project.settings import *  # noqa: F403
from notifier_project.settings import INSTALLED_APPS, Q_CLUSTER

INSTALLED_APPS += ["tests.support.promised_tasks.Listener"]

# Failed attempts are followed at once by the next, so that one `qcluster --run-once` sees all of them.
Q_CLUSTER |= {"threads": 1}  # as in django-q2
Q_CLUSTER |= {"backoff_base": 0.0, "max_attempts": 3, "ALT_CLUSTERS": {"second": {"timeout": 7}}}
Q_CLUSTER |= json.loads(os.environ.get("TEST_Q_CLUSTER", "{}"))
