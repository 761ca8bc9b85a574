"""Hints between processes: heard by one who listens, and never in anybody's way."""

import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from time import sleep

from durable_queue.store import wakeup
from tests.support.queue_rows import listener

QUEUE = "test of wake-ups"


def test_wake__nobody_listens() -> None:
    wakeup.wake(QUEUE)
    with listener(QUEUE) as ear:
        assert not ear.wait(0.01)


def test_wake__who_listened_is_gone_and_another_comes() -> None:
    with listener(QUEUE) as ear:
        wakeup.wake(QUEUE)
        assert ear.wait(1)
    wakeup.wake(QUEUE)  # to nobody
    wakeup._fifo(QUEUE).unlink()
    with listener(QUEUE) as ear:
        wakeup.wake(QUEUE)
        assert ear.wait(1)


def test_wake__another_listens_by_a_fifo_of_its_own() -> None:
    with listener(QUEUE):
        wakeup.wake(QUEUE)
    wakeup._fifo(QUEUE).unlink()
    with listener(QUEUE) as ear:
        wakeup.wake(QUEUE)
        assert ear.wait(1)


def test_wake__more_hints_than_a_pipe_holds() -> None:
    with listener(QUEUE) as ear:
        for _ in range(70_000):  # a pipe holds 65,536 bytes (pipe(7))
            wakeup.wake(QUEUE)
        assert ear.wait(1)


def test_wake__hands_on_the_numbers_of_what_is_announced() -> None:
    with listener(QUEUE) as ear:
        wakeup.wake(QUEUE, 5)
        wakeup.wake(QUEUE)
        wakeup.wake(QUEUE, 2**31 - 1)
        assert ear.wait(1) == [5, 0, 2**31 - 1]
        for number in range(1, 21):
            wakeup.wake(QUEUE, number)
        assert ear.wait(1) == [17, 18, 19, 20]


def test_wake__what_is_no_number() -> None:
    with listener(QUEUE) as ear:
        os.write(ear._fifo, b"!" * 6)  # of a version before this one
        assert len(ear.wait(1)) == 1
        wakeup.wake(QUEUE)
        assert ear.wait(1)


def test_wake__each_hint_for_one_of_those_that_wait() -> None:
    with listener(QUEUE) as first, listener(QUEUE) as second, ThreadPoolExecutor() as threads:
        waiting = [threads.submit(ear.wait, 5) for ear in (first, second)]
        wakeup.wake(QUEUE, 1)
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        wakeup.wake(QUEUE, 2)
        assert {tuple(future.result()) for future in waiting} == {(1,), (2,)}
        assert len(done) == 1


def test_wake__wakes_one_of_those_that_wait() -> None:
    with listener(QUEUE) as first, listener(QUEUE) as second, ThreadPoolExecutor() as threads:
        waiting = [threads.submit(ear._poll.poll, 5) for ear in (first, second)]
        sleep(0.1)
        wakeup.wake(QUEUE)
        _, still = wait(waiting, timeout=0.3)
        assert len(still) == 1
        wakeup.wake(QUEUE)
        assert all(future.result() for future in waiting)
