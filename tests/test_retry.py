"""When a failed task runs again."""

from datetime import timedelta

import pytest

from durable_queue import retry
from durable_queue.conf import cluster_conf
from durable_queue.task.policy import DEFAULT, RetryPolicy, policy_for

POLICY = RetryPolicy(attempts=3, base=2.0, factor=3.0, ceiling=10.0)


@pytest.mark.parametrize(("attempt", "longest"), [(1, 2), (2, 6), (3, 10), (10_000, 10)])
def test_wait__grows_to_the_ceiling_with_jitter(attempt: int, longest: int) -> None:
    waits = {POLICY.wait(attempt) for _ in range(100)}
    assert all(timedelta(seconds=longest / 2) <= wait <= timedelta(seconds=longest) for wait in waits)
    assert len(waits) > 50


def test_is_last() -> None:
    assert [POLICY.is_last(attempt) for attempt in (1, 2, 3, 4)] == [False, False, True, True]


def test_is_last__without_end() -> None:
    assert not RetryPolicy(attempts=0, base=1, factor=1, ceiling=1).is_last(1_000_000)


@retry(attempts=7, base=0.5)
def persistent() -> None:
    """A function with a policy of its own."""


def test_policy_for__default() -> None:
    assert policy_for("builtins.print", print) == DEFAULT


def test_policy_for__decorator_keeps_what_it_does_not_say() -> None:
    policy = policy_for("tests.test_retry.persistent", persistent)
    assert (policy.attempts, policy.base, policy.factor) == (7, 0.5, DEFAULT.factor)


def test_policy_for__setting_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cluster_conf.retry_policies, "tests.test_retry.persistent", {"attempts": 2})
    assert policy_for("tests.test_retry.persistent", persistent).attempts == 2
