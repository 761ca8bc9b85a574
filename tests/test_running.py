"""Which task a caller works for, and the notes that it makes: durable_queue/task/running.py and notes.py."""

import contextvars
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Self

import pytest

from durable_queue.task import running
from durable_queue.task.callers import current_attempt, starter_of_caller, task_of_caller
from durable_queue.task.calls import IN_ORDER
from durable_queue.task.running import RunningTask
from durable_queue.work.notes import Notes

PATH = IN_ORDER


@pytest.fixture
def begin() -> Iterator[Callable[[str], RunningTask]]:
    """Begin an attempt, as a new worker does."""
    running.prepare_worker()

    def begin(name: str) -> RunningTask:
        task = RunningTask(name * 32, PATH)
        running.begin(task)
        return task

    yield begin
    end()


def end() -> None:
    """End the attempt in hand."""
    if task := current_attempt():
        running.end(task)


def in_thread(function: Callable[[], object]) -> object:
    """What a function returns in a bare thread."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def copy_context_of(task: RunningTask) -> contextvars.Context:
    """A context like the task's."""
    context = contextvars.copy_context()
    context.run(running.current_task.set, task)
    return context


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
    end()
    begin("b")
    assert context.run(task_of_caller) is task
    assert in_thread(lambda: context.run(task_of_caller)) is task


def test_task_of_caller__a_bare_thread_and_its_own_threads(begin: Callable[[str], RunningTask]) -> None:
    task = begin("a")
    assert in_thread(task_of_caller) is task
    assert in_thread(lambda: in_thread(task_of_caller)) is task


class Straggler:
    """A bare thread that asks for whom it works whenever it is told to, until the test ends."""

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._told.put(None)
        self._thread.join()

    def ask(self, function: Callable[[], object] = task_of_caller) -> object:
        """What the function returns in this thread."""
        self._told.put(function)
        return self._found.get(timeout=20)

    def _run(self) -> None:
        while function := self._told.get():
            self._found.put(function())


def test_task_of_caller__a_thread_that_outlives_its_task(begin: Callable[[str], RunningTask]) -> None:
    """It works for its own task until somebody else may have given it work: another task, and not another attempt."""
    first = begin("a")
    with Straggler() as thread:
        assert thread.ask() is first
        end()
        assert thread.ask() is first
        assert not first.is_in_hand
        begin("a")
        assert thread.ask() is first
        end()
        begin("b")
        assert thread.ask() is None
        assert thread.ask(starter_of_caller) is first
        end()
        begin("a")
        assert thread.ask() is None


def test_task_of_caller__a_thread_that_outlives_its_task_and_a_hook(begin: Callable[[str], RunningTask]) -> None:
    begin("a")
    with Straggler() as thread:
        end()
        with running.others():
            assert thread.ask() is None
        assert thread.ask() is None


def test_task_of_caller__a_new_thread_beside_one_that_outlives_its_task(begin: Callable[[str], RunningTask]) -> None:
    """The old one may have started it: a `Timer` that starts the next one."""
    begin("a")
    with Straggler() as thread:
        end()
        task = begin("b")
        assert thread.ask(lambda: in_thread(task_of_caller)) is None
        assert in_thread(task_of_caller) is None
        assert in_thread(starter_of_caller) is task
        assert task_of_caller() is task
        assert in_thread(lambda: copy_context_of(task).run(task_of_caller)) is task
        end()
    task = begin("c")
    assert in_thread(task_of_caller) is task


def test_task_of_caller__a_new_thread_beside_one_of_an_earlier_attempt(begin: Callable[[str], RunningTask]) -> None:
    begin("a")
    with Straggler():
        end()
        task = begin("a")
        assert in_thread(task_of_caller) is task


def test_task_of_caller__a_thread_from_before_all_tasks(begin: Callable[[str], RunningTask]) -> None:
    with running.others():
        thread = Straggler()
    with thread:
        begin("a")
        assert thread.ask() is None
        assert thread.ask(starter_of_caller) is None


def test_task_of_caller__a_pool_within_its_task_and_after_it(begin: Callable[[str], RunningTask]) -> None:
    with ThreadPoolExecutor(1) as pool:
        task = begin("a")
        assert pool.submit(task_of_caller).result() is task
        end()
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

    def begun(self) -> int:
        return 0

    def keep_note(self, task_id: str, text: str) -> None:
        self.notes.send(task_id, text)


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
    notes.send("a" * 32, text)
    ((task_id, kept),) = notes.read()
    assert task_id == "a" * 32
    assert len(kept) <= 400


def test_notes__too_many_are_lost_and_nobody_waits() -> None:
    notes = Notes()
    for number in range(10_000):
        notes.send(f"{number:032}", "x" * 100)
    found = notes.read()
    assert 100 < len(found) < 10_000
    assert found[0] == (f"{0:032}", "x" * 100)
