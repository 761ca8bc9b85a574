"""What tasks that behave like people's tasks leave in the log: each runs in a real worker, and fails or is killed once.

docs/exactly-once.md says what is promised. What holds without a fault, or with a kill anywhere, is tried elsewhere
(tests/test_exactly_once.py, tests/test_log_model.py).
"""

import functools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django_q.models import Failure, Success
from django_q.tasks import async_task

from durable_queue import BackgroundTasks
from durable_queue.models import Note
from durable_queue.verbs import Came, retry
from notifications.tasks import MAYBE_FOR_ANOTHER, NOT_ITS_OWN, write_log
from tests.support import environment, selection, writing_tasks
from tests.support.processes import PROJECT

pytestmark = [pytest.mark.django_db(transaction=True), selection.slow_on_postgresql]

RunCluster = Callable[[], str]


@pytest.fixture
def env(log_file: Path) -> dict[str, str]:
    """The environment of other processes, in which they work on this test's database and log."""
    return {
        "DATABASE_URL": environment.database_url_of_test(),
        "DJANGO_SETTINGS_MODULE": "tests.support.writing_settings",
        "NOTIFIER_LOG_FILE": str(log_file),
        "NOTIFIER_DATA_DIR": os.environ["NOTIFIER_DATA_DIR"],
    }


@pytest.fixture
def run_cluster(env: dict[str, str]) -> RunCluster:
    """A function that runs all that is queued in a worker of its own, retries too; returns what it printed."""
    command = [sys.executable, "manage.py", "qcluster", "--run-once", "--workers", "1"]
    run = functools.partial(subprocess.run, command, cwd=PROJECT, env=os.environ | env, timeout=60, check=True)
    return lambda: str(run(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout)


HOOK = "tests.support.writing_tasks.write_of_hook"


def queue(function: str, *args: Any, name: str = "a task", **kwargs: Any) -> str:
    """Queue one of the tasks of tests/support/writing_tasks.py; return its id."""
    tasks = BackgroundTasks(name=name)
    tasks.add_task(getattr(writing_tasks, function), *args, **kwargs)
    return tasks.enqueue() or ""


def lines_of(log_file: Path) -> Counter[str]:
    """How often each line stands in the log."""
    return Counter(log_file.read_text().splitlines())


def assert_all_succeeded(count: int = 1, attempts: int = 2) -> None:
    """History says so, of each."""
    assert not Failure.objects.exists(), list(Failure.objects.values_list("result", flat=True))
    assert list(Success.objects.values_list("attempt_count", flat=True)) == [attempts] * count


# Which write is which: other branches, other orders, resumed work.


@pytest.mark.parametrize("signal", ["pre_execute", "post_execute_in_worker"])
def test_receiver__writes_beside_the_calls(signal: str, log_file: Path, run_cluster: RunCluster) -> None:
    tasks = BackgroundTasks(name=f"{signal}: audit")
    tasks.add_task(write_log, "found query: hello\n")
    tasks.add_task(write_log, "message to alice\n")
    tasks.add_task(writing_tasks.fail_once)
    tasks.enqueue()
    run_cluster()
    assert_all_succeeded()
    assert lines_of(log_file) == {"audit": 1, "found query: hello": 1, "message to alice": 1}


def test_receiver__writes_where_another_branch_goes_on(log_file: Path, run_cluster: RunCluster) -> None:
    """After the attempt that fails before the second write."""
    queue("write_fail_write", name="post_execute_in_worker: audit")
    run_cluster()
    assert_all_succeeded()
    assert lines_of(log_file) == {"one": 1, "two": 1, "audit": 1}


def test_receiver__writes_the_same_text_as_the_task(log_file: Path, run_cluster: RunCluster) -> None:
    queue("write_and_fail_once", "same\n", name="pre_execute: same")
    run_cluster()
    assert lines_of(log_file) == {"same": 2}


def test_receiver__of_each_end_writes_anew(log_file: Path, run_cluster: RunCluster) -> None:
    """A hook and a `post_execute` receiver tell of an end: fail, retry, fail: two notices."""
    task_id = async_task(
        "builtins.int", "no number", task_name="post_execute: ended", hook="tests.support.writing_tasks.write_of_hook"
    )
    run_cluster()
    assert retry(task_id, by="alice") is Came.DONE
    run_cluster()
    assert lines_of(log_file) == {"ended": 2, "hook": 2}


def test_write_log__another_branch_on_the_retry(log_file: Path, run_cluster: RunCluster) -> None:
    queue("report_failure")
    run_cluster()
    assert_all_succeeded()
    assert log_file.read_text() == "failed\ndone\n"


def test_write_log__goes_on_where_it_stopped(log_file: Path, run_cluster: RunCluster) -> None:
    queue("resume", 5)
    run_cluster()
    assert_all_succeeded()
    assert log_file.read_text() == "sent 0\nsent 1\nsent 2\nsent 3\nsent 4\n"


@pytest.mark.parametrize(("keyed", "lines"), [(True, 5), (False, 3)], ids=["with keys", "without, as documented"])
def test_write_log__goes_on_with_equal_texts(log_file: Path, run_cluster: RunCluster, keyed: bool, lines: int) -> None:
    """Without keys a text stands as often as the attempt that wrote it most often: here three times."""
    queue("resume", 5, equal=True, keyed=keyed)
    run_cluster()
    assert_all_succeeded()
    assert log_file.read_text() == "sent\n" * lines


def test_write_log__in_another_order_each_time(log_file: Path, run_cluster: RunCluster) -> None:
    for _ in range(20):
        queue("shuffle", 6)
    run_cluster()
    assert_all_succeeded(20)
    assert lines_of(log_file) == {f"item {item}": 20 for item in range(6)}


def test_write_log__equal_texts_in_one_call_and_in_several(log_file: Path, run_cluster: RunCluster) -> None:
    tasks = BackgroundTasks()
    tasks.add_task(write_log, "same\n")
    tasks.add_task(writing_tasks.write_and_fail_once, "same\n", "same\n")
    tasks.add_task(write_log, "same\n")
    tasks.enqueue()
    run_cluster()
    assert_all_succeeded()
    assert lines_of(log_file) == {"same": 4}


def test_write_log__in_a_nested_run_in_order(log_file: Path, run_cluster: RunCluster) -> None:
    queue("nest")
    tasks = BackgroundTasks()
    tasks.add_task(writing_tasks.nest)
    tasks.add_task(write_log, "inside\n")
    tasks.enqueue()
    run_cluster()
    assert_all_succeeded(2)
    assert lines_of(log_file) == {"before": 4, "inside": 5}


def test_write_log__a_text_that_changes_and_a_kill(log_file: Path, run_cluster: RunCluster) -> None:
    queue("write_time")
    run_cluster()
    assert_all_succeeded()
    assert len(log_file.read_text().splitlines()) == 1


def test_write_log__a_write_that_is_skipped_is_told(log_file: Path, run_cluster: RunCluster) -> None:
    task_id = queue("write_and_fail_once", "one\n")
    output = run_cluster()
    told = [line for line in output.splitlines() if "stood in the log already" in line]
    assert len(told) == 1
    assert task_id in told[0]
    assert "'one\\n'" in told[0]


def test_write_log__one_key_for_two_writes(log_file: Path, run_cluster: RunCluster) -> None:
    queue("use_key_twice")
    assert "'another\\n' (key 'same')" in run_cluster()
    assert log_file.read_text() == "one\n"


@pytest.mark.parametrize(("key", "error"), [("", ValueError), (7, TypeError), (b"7", TypeError)])
def test_write_log__a_key_that_is_none(log_file: Path, key: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="key"):
        write_log("never\n", key=key)
    assert not log_file.exists()


# Replacements.


@pytest.mark.parametrize(
    ("steps", "text"),
    selection.slow_after(
        2,
        [
            (["=one", "=two", "!"], "notification for x: two"),
            (["=one", "!", "=two"], "notification for x: two"),
            (["+line\n", "=one", "!"], "notification for x: one"),
            (["=one", "+, and a line\n", "!"], "notification for x: one, and a line\n"),
            (["=one", "=two", "=one", "!"], "notification for x: one"),
        ],
    ),
)
def test_write_notification__in_the_order_of_the_task(
    steps: list[str], text: str, log_file: Path, run_cluster: RunCluster
) -> None:
    queue("replace", *steps)
    run_cluster()
    assert_all_succeeded()
    assert log_file.read_text() == text


# Threads, pools, children.


@pytest.mark.parametrize(
    ("function", "lines"),
    [("gather", {"a": 1, "b": 1, "c": 1}), ("gather_equal", {"same": 3})],
    ids=["three texts", "one text"],
)
def test_write_log__with_the_context_in_threads(
    function: str, lines: dict[str, int], log_file: Path, run_cluster: RunCluster
) -> None:
    for _ in range(5):
        queue(function)
    run_cluster()
    assert_all_succeeded(5)
    assert lines_of(log_file) == {line: 5 * count for line, count in lines.items()}
    assert not Note.objects.exists()


OTHERS = [
    ("in_threads", "thread", 3),
    ("in_thread_pool", "pool", 8),
    ("in_forks", ".", 5),
    ("in_process_pool", "pool", 8),
    ("in_executor_processes", "pool", 8),
]


@pytest.mark.parametrize(("function", "line", "count"), selection.slow_after(2, OTHERS))
def test_write_log__without_the_context(function: str, line: str, count: int, log_file: Path, run_cluster: RunCluster) -> None:
    """Never fewer than were written, and history says that it may be more."""
    task_id = queue(function)
    run_cluster()
    assert_all_succeeded()
    assert count <= lines_of(log_file)[line] <= 2 * count
    assert Note.objects.get(task_id=task_id).text == NOT_ITS_OWN


@pytest.mark.parametrize(("function", "line", "count"), selection.slow_after(2, OTHERS))
def test_write_log__without_the_context_and_with_keys(
    function: str, line: str, count: int, log_file: Path, run_cluster: RunCluster
) -> None:
    task_id = queue(function, keyed=True)
    run_cluster()
    assert_all_succeeded()
    assert lines_of(log_file) == {line: count}
    assert not Note.objects.filter(task_id=task_id).exists()


def test_write_log__by_threads_that_outlive_their_task(log_file: Path, run_cluster: RunCluster) -> None:
    """The first attempt leaves three threads behind, which write while no other task is in hand."""
    with_keys = queue("in_threads", keyed=True, stay=0.5)
    run_cluster()
    assert lines_of(log_file) == {"thread": 3}
    without = queue("in_threads", stay=0.5)
    run_cluster()
    assert lines_of(log_file) == {"thread": 3 + 2 * 3}
    assert [(note.task_id, note.text) for note in Note.objects.all()] == [(without, NOT_ITS_OWN)]
    assert without != with_keys


@selection.slow
def test_write_log__by_threads_that_outlive_their_task_beside_another(log_file: Path, run_cluster: RunCluster) -> None:
    """The other one may have given them work: no write is left out."""
    task_id = queue("in_threads", keyed=True, stay=0.5)
    queue("rest", 1.0)
    queue("in_threads", keyed=True)  # the same keys, in another task
    run_cluster()
    assert 3 + 3 <= lines_of(log_file)["thread"] <= 2 * (3 + 3)
    assert MAYBE_FOR_ANOTHER in [note.text for note in Note.objects.filter(task_id=task_id)]


@pytest.mark.parametrize("kind", selection.slow_after(1, ["thread", "child"]))
def test_write_log__by_a_hand_written_pool_that_tasks_share(kind: str, log_file: Path, run_cluster: RunCluster) -> None:
    """Nobody can tell whom it works for: the same key in two tasks is no reason to leave out a write."""
    for number in range(3):
        queue("in_hand_written_pool", kind, f"{number}\n")
    run_cluster()
    assert_all_succeeded(3, attempts=1)
    assert log_file.read_text() == "0\n1\n2\n"


def test_write_log__by_a_pool_that_tasks_share(log_file: Path, run_cluster: RunCluster) -> None:
    """Nobody can tell whom it works for, so that the same key in two tasks is no reason to leave out a write."""
    tasks = {queue("in_shared_pool", f"{number}\n") for number in range(3)}
    run_cluster()
    assert log_file.read_text() == "0\n1\n2\n"
    assert len(tasks) == 3


def test_write_log__in_a_coroutine_around_a_trim(log_file: Path, run_cluster: RunCluster) -> None:
    """The trim, and whether the lease still holds, are asked of the database."""
    queue("write_around_a_trim")
    assert "could not be trimmed" not in run_cluster()
    assert_all_succeeded(attempts=1)
    assert [line for line in log_file.read_text().splitlines() if len(line) < 100] == ["before", "after"]
