"""The service's settings, for tests of the API, without a backoff that a test would wait for."""

import json
import os

from notifier_project.settings import *  # noqa: F403
from notifier_project.settings import Q_CLUSTER

ROOT_URLCONF = "tests.support.api_urls"

Q_CLUSTER |= {"backoff_base": 0.1, "max_attempts": 3} | json.loads(os.environ.get("TEST_Q_CLUSTER", "{}"))
