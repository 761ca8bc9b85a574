"""How long a function may take, and when its task runs again after a failed or lost attempt."""

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from django_q.conf import Conf

from durable_queue.conf import cluster_conf
from durable_queue.task.calls import path_today

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often a function is tried, how long the waits are, and how long each attempt may take."""

    attempts: int  # in all, including the first; 0 means no limit
    base: float  # seconds
    factor: float
    ceiling: float  # seconds
    timeout: float | None = None  # seconds that a call of it may take; None: as the task or `Q_CLUSTER` says; 0: any

    def __post_init__(self) -> None:
        """Raises ValueError for a value that is not a number, or is below 0."""
        for name, value in vars(self).items():
            if name == "timeout" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{name} is {value!r}, and should be a number from 0 on")

    def is_last(self, attempt: int) -> bool:
        """Whether no attempt follows the one with this number (from 1)."""
        return 0 < self.attempts <= attempt

    def wait(self, attempt: int) -> timedelta:
        """How long to wait after the failed attempt with this number: exponential backoff with "equal jitter".

        The jitter keeps tasks that failed together from coming back together
        (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
        """
        try:
            full = min(self.ceiling, self.base * self.factor ** (attempt - 1))
        except OverflowError:
            full = self.ceiling
        return timedelta(seconds=full * random.uniform(0.5, 1.0))  # noqa: S311


DEFAULT = RetryPolicy(
    attempts=Conf.MAX_ATTEMPTS,
    base=cluster_conf.backoff_base,
    factor=cluster_conf.backoff_factor,
    ceiling=cluster_conf.backoff_ceiling,
)


def retry(**policy: Any) -> Callable[[F], F]:
    """Give a function its own policy: `@retry(attempts=3, base=10, timeout=30)`. Omitted values stay as configured."""
    own = replace(DEFAULT, **policy)

    def decorate(func: F) -> F:
        func.retry_policy = own  # type: ignore[attr-defined]
        return func

    return decorate


# Calls the hook of a lost task, at most once. Its decorator would be unknown to those who find that its worker was killed.
HOOK = "durable_queue.work.follow_ups.call_hook_of"


def alone(func: F) -> F:
    """Have a function's tasks run alone, each in the main thread of a process in which no other task runs at that time.

    For code that isn't safe in threads, that changes the process's directory, environment or locale, sets signal handlers,
    or forks. `Q_CLUSTER["alone"]` does the same for dotted paths.
    """
    func.runs_alone = True  # type: ignore[attr-defined]
    return func


def runs_alone(path: str, func: object = None) -> bool:
    """Whether the tasks of a function run alone: by the setting for its dotted path, or by its decorator."""
    return getattr(func, "runs_alone", False) is True or path in _alone_by_setting()


@functools.cache
def _alone_by_setting() -> frozenset[str]:
    return frozenset(map(path_today, cluster_conf.alone))


def policy_for(path: str, func: object = None) -> RetryPolicy:
    """The policy of a function: from the setting for its dotted path, else from its decorator, else the default."""
    for configured, own in cluster_conf.retry_policies.items():
        if path_today(configured) == path:
            return replace(DEFAULT, **own)
    policy = getattr(func, "retry_policy", replace(DEFAULT, attempts=1) if path == HOOK else DEFAULT)
    return policy if isinstance(policy, RetryPolicy) else DEFAULT
