"""durable_queue/task/calls.py: what a request leaves behind, and what a worker makes of it."""

import asyncio
import functools
import pydoc
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django_q.models import OrmQ
from django_q.signing import SignedPackage

from durable_queue import BackgroundTasks, retry
from durable_queue.task.calls import resolve
from durable_queue.task.originals import original
from durable_queue.work import functions
from notifications.tasks import write_notification
from tests.support import selection
from tests.support.processes import manage

pytestmark = pytest.mark.django_db


def note(*args: Any, **kwargs: Any) -> None:
    """Write down what arrived."""
    say(f"{args} {kwargs}")


def say(message: str) -> None:
    """Write down a line."""
    with settings.NOTIFIER_LOG_FILE.open("a") as log:
        print(message, file=log)


async def say_later(message: str) -> None:
    """Write down a line, in an event loop."""
    await asyncio.sleep(0)
    say(f"later: {message}")


def fail() -> NoReturn:
    """Fail."""
    raise ValueError("as always")


class Greeter:
    """Has a method."""

    def greet(self) -> None:
        """Never called."""


def queued() -> dict[str, Any]:
    """The package of the queue's only entry."""
    package: dict[str, Any] = SignedPackage.loads(OrmQ.objects.get().payload)
    return package


def work() -> None:
    """Run the queue's only entry, as django-q2's worker calls it."""
    package = queued()
    resolve(package["func"])(*package["args"], **package["kwargs"])


class Unhashable:
    """A function that a queue row holds whole, as django-q2 allows it."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> str:
        return "called"


def test_function_of__a_callable_that_can_not_be_hashed() -> None:
    assert functions.function_of({"func": Unhashable(), "path": "called"}).itself() == "called"


def test_enqueue__no_calls() -> None:
    assert BackgroundTasks().enqueue() is None
    assert not OrmQ.objects.exists()


def test_enqueue__one_call_is_queued_as_itself() -> None:
    tasks = BackgroundTasks(name="message to alice")
    tasks.add_task(write_notification, "alice@example.com", message="some notification")
    task_id = tasks.enqueue()
    package = queued()
    assert package["id"] == task_id
    assert package["name"] == "message to alice"
    assert package["func"] == "notifications.tasks.write_notification"
    assert package["args"] == ("alice@example.com",)
    assert package["kwargs"] == {"message": "some notification"}


def test_enqueue__several_calls_are_one_entry_run_in_order(log_file: Path) -> None:
    tasks = BackgroundTasks()
    for message in ("first", "second", "third"):
        tasks.add_task(say, message)
    tasks.enqueue()
    work()
    assert log_file.read_text() == "first\nsecond\nthird\n"


def test_enqueue__a_failing_call_keeps_the_later_ones_from_running(log_file: Path) -> None:
    tasks = BackgroundTasks()
    tasks.add_task(say, "before")
    tasks.add_task(fail)
    tasks.add_task(say, "after")
    tasks.enqueue()
    with pytest.raises(ValueError, match="as always"):
        work()
    assert log_file.read_text() == "before\n"


def test_enqueue__only_adding_runs_and_queues_nothing(log_file: Path) -> None:
    BackgroundTasks().add_task(say, "too early")
    assert not OrmQ.objects.exists()
    assert not log_file.exists()


# Those that async_task lists, and those that it names one by one.
DJANGO_Q2_TAKES = {
    *next(names for names in original("async_task").__code__.co_consts if isinstance(names, tuple) and "hook" in names),
    *("func", "task_name", "q_options"),
}


@pytest.mark.parametrize("name", sorted(DJANGO_Q2_TAKES))
def test_enqueue__keyword_arguments_named_as_options_reach_the_function(name: str, log_file: Path) -> None:
    tasks = BackgroundTasks(name="the task's own name")
    tasks.add_task(note, 1, **{name: "mine"})
    tasks.enqueue()
    assert queued()["name"] == "the task's own name"
    work()
    assert log_file.read_text() == f"(1,) {{'{name}': 'mine'}}\n"


def test_enqueue__coroutine_functions_keep_their_place(log_file: Path) -> None:
    tasks = BackgroundTasks()
    tasks.add_task(say, "first")
    tasks.add_task(say_later, "second")
    tasks.add_task(say, "third")
    tasks.enqueue()
    work()
    assert log_file.read_text() == "first\nlater: second\nthird\n"


@pytest.mark.parametrize(
    ("calls", "name"),
    [([note], "note"), ([say_later], "say_later"), ([note, say], "note, say")],
    ids=["one", "coroutine function", "several"],
)
def test_enqueue__without_a_name_is_named_for_its_functions(calls: list[Any], name: str) -> None:
    tasks = BackgroundTasks()
    for func in calls:
        tasks.add_task(func, "x")
    tasks.enqueue()
    assert queued()["name"] == name


def test_enqueue__a_long_name_is_cut_to_what_history_can_hold() -> None:
    tasks = BackgroundTasks(name="message to " + "x" * 60_000)
    tasks.add_task(say, "")
    tasks.enqueue()
    assert len(queued()["name"]) == 100
    assert queued()["name"].startswith("message to xxx")


@pytest.mark.parametrize(
    "func",
    [lambda: None, Greeter().greet, functools.partial(say, "x"), Greeter()],
    ids=["lambda", "bound method", "partial", "object"],
)
def test_add_task__a_worker_could_not_import_it(func: Any) -> None:
    tasks = BackgroundTasks()
    with pytest.raises(TypeError, match="A worker can't import"):
        tasks.add_task(func)
    assert tasks.enqueue() is None


def test_add_task__nested_function() -> None:
    def nested() -> None:
        """Never called."""

    with pytest.raises(TypeError, match="nested"):
        BackgroundTasks().add_task(nested)


def test_add_task__function_of_the_started_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def started() -> None:
        """Never called."""

    started.__module__, started.__qualname__ = "__main__", "started"
    monkeypatch.setattr(pydoc.locate("__main__"), "started", started, raising=False)
    with pytest.raises(TypeError, match=r"__main__\.started"):
        BackgroundTasks().add_task(started)


def test_enqueue__an_argument_that_cannot_be_pickled() -> None:
    tasks = BackgroundTasks()
    tasks.add_task(say, "fine")
    tasks.add_task(note, threading.Lock())
    with pytest.raises(TypeError, match="lock"):
        tasks.enqueue()
    assert not OrmQ.objects.exists()


def test_enqueue__rolls_back_with_the_caller() -> None:
    tasks = BackgroundTasks()
    tasks.add_task(say, "never")
    with transaction.atomic():
        tasks.enqueue()
        assert OrmQ.objects.count() == 1
        transaction.set_rollback(True)
    assert not OrmQ.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_enqueue__the_queue_cannot_be_written_to() -> None:
    tasks = BackgroundTasks()
    tasks.add_task(say, "never")
    table = OrmQ._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO away")
    try:
        with pytest.raises(DatabaseError):
            tasks.enqueue()
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE away RENAME TO {table}")
    assert not OrmQ.objects.exists()


@retry(attempts=1)
def fail_for_good() -> None:
    """Fail, and not be tried again."""
    raise ValueError("for good")


@selection.slow_on_postgresql
def test_enqueue__of_several_calls_the_policy_of_the_failing_one_holds(installation: dict[str, str]) -> None:
    manage("migrate", env=installation)
    queue_both = "from durable_queue import BackgroundTasks as B; from tests.test_background import *;"
    queue_both += "t = B(); t.add_task(say, 'x'); t.add_task(fail_for_good); t.enqueue()"
    manage("shell", "-c", queue_both, env=installation)
    manage("qcluster", "--run-once", env=installation)
    count = "from django_q.models import Failure; print(Failure.objects.get().attempt_count)"
    assert manage("shell", "-c", count, env=installation).splitlines()[-1] == "1"
