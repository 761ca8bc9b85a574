"""The service's settings with short limits: bad tasks end sooner in fault tests."""

from notifier_project.settings import *  # noqa: F403
from notifier_project.settings import Q_CLUSTER

Q_CLUSTER |= {"max_attempts": 2, "backoff_base": 0.1}
