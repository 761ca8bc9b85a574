"""What `Q_CLUSTER` says beyond django-q2's own keys (https://django-q2.readthedocs.io/en/master/configure.html)."""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django_q.conf import Conf


@dataclass(frozen=True, kw_only=True)
class ClusterConf:
    """The cluster's own settings; durations in seconds unless the name says otherwise."""

    run_dir: Path  # FIFOs, locks and progress files: one folder for the web and the workers of one host
    grace: int = 10  # how long a task in hand may go on after SIGTERM
    claim: int = 128  # rows a worker takes at a time
    threads: int = 1  # tasks that a worker runs at once, each in a thread; 1: one after the other, in the main thread
    coroutines: int = 1000  # tasks that are coroutine functions which a worker runs at once, if it has several threads
    connections: int = 10  # connections to PostgreSQL for the tasks of one worker, if it has several threads
    alone: list[str] = field(default_factory=list)  # dotted paths of functions whose tasks run alone
    backoff_base: float = 1.0  # the wait after a first failed attempt
    backoff_factor: float = 3.0  # how much longer each further wait is
    backoff_ceiling: float = 600.0  # no wait is longer
    retry_policies: dict[str, dict[str, Any]] = field(default_factory=dict)  # by a function's dotted path
    max_backlog: int | None = None  # due tasks from which on somebody accepts no more; upkeep then publishes how many wait
    idempotency_hours: int = 24  # how long an idempotency key keeps a repeated request from being queued again
    history_days: int = 30  # how long succeeded and failed tasks are kept

    @property
    def history(self) -> timedelta:
        """How long succeeded and failed tasks are kept."""
        return timedelta(days=self.history_days)

    @property
    def idempotency(self) -> timedelta:
        """How long an idempotency key is kept."""
        return timedelta(hours=self.idempotency_hours)


def _own(conf: dict[str, Any]) -> ClusterConf:
    if "run_dir" not in conf:
        raise ImproperlyConfigured('Q_CLUSTER["run_dir"] is missing: name a folder that this host\'s web and workers share.')
    names = ClusterConf.__dataclass_fields__.keys()
    own = {name: conf[name] for name in names if name in conf}
    return ClusterConf(**own | {"run_dir": Path(own["run_dir"])})


cluster_conf = _own(Conf.conf)
