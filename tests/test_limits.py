"""An interruption hits what is over its limit, and nothing after it: the exception itself, in this process."""

import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable

import pytest

from durable_queue.task.limits import Limit, MainThreadLimit, OverLimitError
from durable_queue.task.uninterrupted import to_its_end, uninterrupted
from tests.support import selection

pytestmark = selection.once
ROUNDS = 10_000


class Watch:
    """Interrupts what a thread runs, once it is over its limit, as a worker's watch does."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over:
            number, moment = self._limit.current
            if 0.0 < moment <= time.monotonic():
                self._limit.interrupt(number)
            time.sleep(0.00005)


def in_thread(job: Callable[[Limit], None]) -> None:
    """Run a job in a thread that a watch may interrupt. Raises what it raises."""
    limit, failed = Limit(), list[BaseException]()

    def run() -> None:
        limit.join()
        try:
            job(limit)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.00002)  # the watch is to have its turn at any moment, not every 5 ms
    try:
        with Watch(limit):
            thread.start()
            thread.join(120)
    finally:
        sys.setswitchinterval(usual)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def in_main_thread(job: Callable[[Limit], None]) -> None:
    """Run a job in the main thread of a forked process, whose timer is its own."""
    child = os.fork()
    if not child:
        limit = MainThreadLimit()
        limit.join()
        try:
            job(limit)
        except BaseException as error:
            print(repr(error), flush=True)  # noqa: T201 - pytest shows it
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


IN_BOTH = pytest.mark.parametrize("run", [in_thread, in_main_thread])


def spin(seconds: float) -> None:
    """Run Python for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def attempt(limit: Limit, seconds: float, job: Callable[[], object]) -> bool:
    """Run a job under a limit, as an attempt at a task does; return whether it got through."""
    try:
        try:
            limit.begin(seconds, "Task")
            job()
        finally:
            limit.end()
    except OverLimitError:
        limit.end()
        return False
    return True


@IN_BOTH
def test_interrupt__what_ends_at_its_limit(run: Callable[[Callable[[Limit], None]], None]) -> None:
    """Thousands that end within a millisecond of it: the exception never reaches what is between two of them."""
    rounds = ROUNDS if run is in_thread else ROUNDS // 5

    def job(limit: Limit) -> None:
        through = 0
        for _ in range(rounds):
            through += attempt(limit, 0.0005, lambda: spin(random.uniform(0.0, 0.001)))
            spin(0.0001)  # nothing may be raised here
        assert rounds / 10 < through < rounds * 9 / 10, f"{through} got through"

    run(job)


@IN_BOTH
def test_uninterrupted__is_interrupted_at_its_end(run: Callable[[Callable[[Limit], None]], None]) -> None:
    def job(limit: Limit) -> None:
        ended = 0

        def work() -> None:
            nonlocal ended
            with uninterrupted():
                spin(random.uniform(0.0, 0.0005))
                with uninterrupted():
                    spin(0.0005)
                spin(random.uniform(0.0, 0.0005))
                ended += 1

        results = [attempt(limit, random.uniform(0.0001, 0.0015), work) for _ in range(2000)]
        late = results.count(False)
        assert 200 < late < 2000
        # Those that were interrupted before they began have not ended; all others have.
        assert ended >= results.count(True) + late / 2

    run(job)


@IN_BOTH
def test_uninterrupted__never_in_the_middle(run: Callable[[Callable[[Limit], None]], None]) -> None:
    def job(limit: Limit) -> None:
        entered = left = 0

        def work() -> None:
            nonlocal entered, left
            while True:
                with uninterrupted():
                    entered += 1
                    spin(0.00005)
                    left += 1

        for _ in range(500):
            assert not attempt(limit, random.uniform(0.0005, 0.002), work)
            assert entered == left

    run(job)


@IN_BOTH
def test_interrupt__says_what_was_over_its_limit(run: Callable[[Callable[[Limit], None]], None]) -> None:
    def job(limit: Limit) -> None:
        try:
            try:
                limit.begin(0.01, "The call of math.sqrt")
                spin(1000)
            finally:
                limit.end()
        except OverLimitError as error:
            assert str(error) == "The call of math.sqrt exceeded maximum timeout value (0.01 seconds)"  # noqa: PT017
        else:
            raise AssertionError("it was not interrupted")

    run(job)


def test_interrupt__by_the_number_of_what_has_ended() -> None:
    """It hits nothing: neither what runs next in the thread, nor another thread that has the number of the ended one."""
    ended: list[tuple[Limit, int, int]] = []  # the limit, the number of what has ended, and the thread's own number

    def job(limit: Limit) -> None:
        for other, number, _ in ended:
            other.interrupt(number)
        limit.begin(1000, "first")
        ended.append((limit, limit.current[0], threading.get_ident()))
        limit.end()
        limit.begin(1000, "second")
        for other, number, _ in ended:
            other.interrupt(number)
        spin(0.02)
        limit.end()
        limit.leave()

    for _ in range(10):
        in_thread(job)
    assert len({thread for _, _, thread in ended}) < len(ended), "no thread had the number of another"


def test_main_thread__what_has_no_limit_is_not_interrupted() -> None:
    """By the timer of what ran before."""

    def job(limit: Limit) -> None:
        for seconds in (0.0, 1.0):
            limit.begin(0.05, "first")
            limit.begin(seconds, "second")
            spin(0.1)
            limit.end()

    in_main_thread(job)


def test_interrupt__logging_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks are taken and released in Python: an exception in between would silence all threads."""
    monkeypatch.setattr(logging.Handler, "handle", to_its_end(logging.Handler.handle))
    logger = logging.getLogger("tests.limits")
    logger.addHandler(logging.NullHandler())
    handler = logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115 - closed with the handler
    logger.addHandler(handler)
    logger.propagate = False

    def log_for_ever() -> None:
        while True:
            logger.warning("a line")

    def job(limit: Limit) -> None:
        for _ in range(500):
            assert not attempt(limit, random.uniform(0.0005, 0.001), log_for_ever)

    in_thread(job)
    assert handler.lock
    assert handler.lock.acquire(timeout=5)
    handler.lock.release()
    handler.stream.close()
