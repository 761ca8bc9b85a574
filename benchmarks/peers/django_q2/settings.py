"""django-q2 as it comes (https://django-q2.readthedocs.io/en/master/configure.html), with defaults or tuned."""

import os

from database import databases

SECRET_KEY = "benchmark"  # noqa: S105 - nobody else's
USE_TZ = True
DATABASES = databases()
INSTALLED_APPS = ["django_q"]
Q_CLUSTER = {"name": "benchmark", "orm": "default", "workers": 2}
if os.environ.get("BENCH_TUNED"):
    # No counting of kept results, fifty rows a look, as many in memory as the workers can do in a moment.
    Q_CLUSTER |= {"save_limit": 0, "bulk": 50, "queue_limit": 200, "timeout": 60, "retry": 600}
