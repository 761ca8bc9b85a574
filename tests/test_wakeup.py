"""Hints between processes: heard by one who listens, and never in anybody's way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from notifications.cluster import wakeup
from notifications.cluster.conf import cluster_conf

QUEUE = "test of wake-ups"


@contextmanager
def listener() -> Iterator[wakeup.Ear]:
    """A worker's end, closed in the end as when the worker dies."""
    signals, other = os.pipe()
    cluster_conf.run_dir.mkdir(parents=True, exist_ok=True)
    ear = wakeup.Ear(QUEUE, signals)
    try:
        yield ear
    finally:
        for descriptor in (ear._fifo, signals, other):
            os.close(descriptor)


def test_wake__nobody_listens() -> None:
    wakeup.wake(QUEUE)
    with listener() as ear:
        assert not ear.wait(0.01)


def test_wake__who_listened_is_gone_and_another_comes() -> None:
    with listener() as ear:
        wakeup.wake(QUEUE)
        assert ear.wait(1)
    wakeup.wake(QUEUE)  # to nobody
    wakeup._fifo(QUEUE).unlink()
    with listener() as ear:
        wakeup.wake(QUEUE)
        assert ear.wait(1)


def test_wake__another_listens_by_a_fifo_of_its_own() -> None:
    with listener():
        wakeup.wake(QUEUE)
    wakeup._fifo(QUEUE).unlink()
    with listener() as ear:
        wakeup.wake(QUEUE)
        assert ear.wait(1)


def test_wake__more_hints_than_a_pipe_holds() -> None:
    with listener() as ear:
        for _ in range(70_000):  # a pipe holds 65,536 bytes (pipe(7))
            wakeup.wake(QUEUE)
        assert ear.wait(1)
