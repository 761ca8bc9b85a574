"""Tasks that are cancelled while a worker has them: they heed that, or end as they would have."""

from functools import partial
from pathlib import Path

import pytest
from django_q.models import OrmQ, Task
from django_q.tasks import async_task

from durable_queue import BackgroundTasks
from durable_queue.models import Cancellation, FailedAttempt
from durable_queue.states import held
from durable_queue.task.calls import DONE
from durable_queue.verbs import Came, cancel, retry
from tests.support.cancelled_tasks import finish_when_asked, line
from tests.support.clusters import Cluster, all_end
from tests.support.processes import wait_until
from tests.support.promised_tasks import read_notes

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_notes")]

TASKS = "tests.support.cancelled_tasks"


def is_held(count: int) -> bool:
    """Whether workers hold so many rows."""
    return bool(OrmQ.objects.filter(held()).count() == count)


def ended(task_id: str) -> Task:
    """The task, once it has ended."""
    wait_until(lambda: Task.objects.filter(pk=task_id).exists(), timeout=30, what="the task ends")
    return Task.objects.get(pk=task_id)


@pytest.mark.parametrize("function", ["heed", "wait"], ids=["a thread", "a coroutine"])
@pytest.mark.parametrize("threads", [1, 40])
def test_cancel__a_running_task_that_heeds_it(cluster: Cluster, function: str, threads: int) -> None:
    task_id = async_task(f"{TASKS}.{function}", hook=f"{TASKS}.hook", chain=[("math.floor", (1.5,))])
    with cluster(threads=threads):
        wait_until(lambda: is_held(1), what="it runs")
        assert cancel(task_id, by="bob", why="a mistake") is Came.ASKED
        task = ended(task_id)
        wait_until(read_notes, what="its hook is called")
    assert (task.success, task.result, task.attempt_count) == (False, "Cancelled by bob: a mistake", 1)
    assert read_notes() == [["end", task_id, False, "Cancelled by bob: a mistake"]]
    attempt = FailedAttempt.objects.get()
    assert (attempt.outcome, attempt.error) == ("cancelled", "Cancelled by bob: a mistake")
    assert attempt.started < attempt.stopped
    assert Cancellation.objects.get().heeded
    assert not OrmQ.objects.exists(), "its chain does not go on"


@pytest.mark.parametrize(
    ("function", "result"), [("finish_when_asked", "done"), ("swallow", "done")], ids=["a thread", "a coroutine"]
)
def test_cancel__a_running_task_that_ends_as_it_would_have(cluster: Cluster, function: str, result: str) -> None:
    task_id = async_task(f"{TASKS}.{function}")
    with cluster():
        wait_until(lambda: is_held(1), what="it runs")
        cancel(task_id, by="bob")
        task = ended(task_id)
    assert (task.success, task.result) == (True, result)
    assert Cancellation.objects.get().heeded is None
    assert not FailedAttempt.objects.exists()


def test_cancel__a_running_task_that_fails_is_not_tried_again(cluster: Cluster) -> None:
    task_id = async_task(f"{TASKS}.fail_when_asked")
    with cluster(max_attempts=5):
        wait_until(lambda: is_held(1), what="it runs")
        cancel(task_id, by="bob")
        task = ended(task_id)
    assert task.result == "Cancelled by bob"
    assert "disk full" in FailedAttempt.objects.get().error
    assert Cancellation.objects.get().heeded


def test_cancel__what_is_claimed_and_not_begun_never_begins(cluster: Cluster, log_file: Path) -> None:
    """A worker takes both rows and begins with the first; the other goes back after half a second."""
    first = async_task(f"{TASKS}.finish_when_asked")
    second = async_task(f"{TASKS}.line", "never")
    with cluster(threads=1, env={"NOTIFIER_LOG_FILE": str(log_file)}):
        wait_until(lambda: is_held(2), what="both are held")
        assert cancel(second, by="bob") is Came.ASKED
        task = ended(second)
        cancel(first, by="bob")
        all_end()
    assert (task.result, task.attempt_count) == ("Cancelled by bob", 0)
    assert not log_file.exists()


def test_cancel__between_two_calls_keeps_what_stands_in_the_log(cluster: Cluster, log_file: Path) -> None:
    tasks = BackgroundTasks()
    for call in (
        partial(tasks.add_task, line, "one"),
        partial(tasks.add_task, finish_when_asked),
        partial(tasks.add_task, line, "two"),
    ):
        call()
    task_id = tasks.enqueue() or ""
    with cluster(env={"NOTIFIER_LOG_FILE": str(log_file)}):
        wait_until(log_file.exists, what="the first call is made")
        cancel(task_id, by="bob")
        task = ended(task_id)
        assert task.result == "Cancelled by bob"
        assert [path == DONE for path, *_ in task.args] == [True, True, False]
        assert log_file.read_text() == "one\n"
        assert retry(task_id, by="bob") is Came.DONE
        all_end()
    assert log_file.read_text() == "one\ntwo\n"


def test_cancelled__raised_where_nobody_asked_is_a_failure(cluster: Cluster) -> None:
    task_id = async_task(f"{TASKS}.raise_unasked")
    with cluster(max_attempts=1):
        task = ended(task_id)
    assert task.result.startswith("nobody asked : Traceback")
    assert FailedAttempt.objects.get().outcome == "failed"
