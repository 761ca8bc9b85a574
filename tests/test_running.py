"""Which task a caller works for, and the notes that it makes: notifications/cluster/running.py and notes.py."""

import contextvars
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from notifications.cluster import running
from notifications.cluster.notes import Notes
from notifications.cluster.running import RunningTask, current_attempt, task_of_caller

PATH = "notifications.background.run_in_order"


@pytest.fixture
def begin() -> Iterator[Callable[[str], RunningTask]]:
    """Begin an attempt, as a worker does."""

    def begin(name: str) -> RunningTask:
        task = RunningTask(name * 32, PATH)
        running.begin(task)
        return task

    yield begin
    running.end()


def in_thread(function: Callable[[], object]) -> object:
    """What a function returns in a bare thread."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def in_child(function: Callable[[], object]) -> bool:
    """Whether a function returns in a forked child, and nothing false."""
    child = os.fork()
    if not child:
        os._exit(1 if function() is False else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_task_of_caller__outside_of_a_task() -> None:
    assert task_of_caller() is None
    assert in_thread(task_of_caller) is None


def test_task_of_caller__the_context_goes_along(begin: Callable[[str], RunningTask]) -> None:
    task = begin("a")
    context = contextvars.copy_context()
    running.end()
    begin("b")
    assert context.run(task_of_caller) is task
    assert in_thread(lambda: context.run(task_of_caller)) is task


def test_task_of_caller__a_bare_thread_and_its_own_threads(begin: Callable[[str], RunningTask]) -> None:
    task = begin("a")
    assert in_thread(task_of_caller) is task
    assert in_thread(lambda: in_thread(task_of_caller)) is task


def test_task_of_caller__a_thread_that_outlives_its_task(begin: Callable[[str], RunningTask]) -> None:
    """It works for its own, while another one is in hand and after it."""
    found: list[RunningTask | None] = []
    goes_on, has_looked = threading.Semaphore(0), threading.Semaphore(0)

    def look() -> None:
        for _ in range(2):
            goes_on.acquire()
            found.append(task_of_caller())
            has_looked.release()

    task = begin("a")
    thread = threading.Thread(target=look)
    thread.start()
    running.end()
    other = begin("b")
    goes_on.release()
    has_looked.acquire()
    assert in_thread(task_of_caller) is other
    running.end()
    goes_on.release()
    thread.join()
    assert found == [task, task]
    assert not task.is_in_hand


def test_task_of_caller__a_thread_from_before_all_tasks(begin: Callable[[str], RunningTask]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(task_of_caller).result()
        running.note_threads()
        begin("a")
        assert pool.submit(task_of_caller).result() is None


def test_task_of_caller__a_pool_within_its_task_and_after_it(begin: Callable[[str], RunningTask]) -> None:
    with ThreadPoolExecutor(1) as pool:
        task = begin("a")
        assert pool.submit(task_of_caller).result() is task
        running.end()
        begin("b")
        assert pool.submit(task_of_caller).result() is None


def test_task_of_caller__a_forked_child(begin: Callable[[str], RunningTask]) -> None:
    task = begin("a")
    assert in_child(lambda: task_of_caller() is task and task.is_in_hand and current_attempt() is None)


def test_count__in_many_threads() -> None:
    task = RunningTask("a" * 32)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.extend(task.count("what") for _ in range(100))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1000))
    assert task.count("another") == 0


def test_enter_calls__only_the_payload_s_own(begin: Callable[[str], RunningTask]) -> None:
    task = begin("a")
    assert task.enter_calls(PATH)
    assert not task.enter_calls(PATH)  # nested
    assert not RunningTask("b" * 32, "app.tasks.another").enter_calls(PATH)


# Notes.


class Keeper:
    """A worker that keeps notes."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def is_held(self, row: int) -> bool:
        return True

    def is_in_hand(self, task_id: str) -> bool:
        return True

    def tell(self, task_id: str, text: str) -> None:
        self.notes.tell(task_id, text)


def test_notes__are_read_once_in_their_order() -> None:
    notes = Notes()
    task = RunningTask("a" * 32, keeper=Keeper(notes))
    for text in ("one", "two \U0001f600", "one"):
        task.note(text)
    assert in_child(partial(task.note, "of a child"))
    assert notes.read() == [("a" * 32, "one"), ("a" * 32, "two \U0001f600"), ("a" * 32, "of a child")]
    assert notes.read() == []


@pytest.mark.parametrize("text", ["x" * 10_000, "\ud800", "", "\0"])
def test_notes__of_any_text(text: str) -> None:
    notes = Notes()
    notes.tell("a" * 32, text)
    ((task_id, kept),) = notes.read()
    assert task_id == "a" * 32
    assert len(kept) <= 400


def test_notes__too_many_are_lost_and_nobody_waits() -> None:
    notes = Notes()
    for number in range(10_000):
        notes.tell(f"{number:032}", "x" * 100)
    found = notes.read()
    assert 100 < len(found) < 10_000
    assert found[0] == (f"{0:032}", "x" * 100)
