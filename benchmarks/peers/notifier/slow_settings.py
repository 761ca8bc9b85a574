"""The service's settings, with a route for slow jobs."""

import os

from notifier_project.settings import *  # noqa: F403 - all of them
from notifier_project.settings import Q_CLUSTER

ROOT_URLCONF = "slow_urls"
if limit := os.environ.get("BENCH_LIMIT"):
    Q_CLUSTER["timeout"] = int(limit)
