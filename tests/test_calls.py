"""A task with several calls: what has succeeded is not made again."""

from collections import Counter
from typing import Any

import pytest
from django.db import connection
from django_q.models import Failure, OrmQ, Success
from django_q.tasks import fetch

from durable_queue import BackgroundTasks, current_task
from durable_queue.models import FailedAttempt, Worker
from durable_queue.task.calls import DONE, Call, with_progress, without_progress
from durable_queue.verbs import Came, retry
from tests.support import selection, side_by_side_tasks
from tests.support.clusters import Cluster, all_end
from tests.support.processes import wait_until
from tests.support.promised_tasks import note, read_notes
from tests.support.side_by_side_tasks import die_once, note_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_notes")]


def effect(word: str) -> str:
    """Have an effect that is counted."""
    note(word)
    return f"result of {word}"


def effect_that_fails(word: str, times: int) -> str:
    """The same, after it has failed so often."""
    note(word)
    if any(note_once(f"{word}, {number}") for number in range(times)):
        raise ValueError(word)
    return f"result of {word}"


def unpicklable(word: str) -> Any:
    """Return what can't be kept."""
    note(word)
    return lambda: word


class HalfPicklableError(Exception):
    """Can be pickled, and not made again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def half_picklable() -> Exception:
    """Return what can't be read again."""
    return HalfPicklableError(1, 2)


def index_of_call() -> int:
    """The index of the call."""
    task = current_task.get()
    assert task
    return task.call


def enqueue(*calls: tuple[Any, ...]) -> str:
    """Enqueue a task with these calls."""
    tasks = BackgroundTasks()
    for func, *args in calls:
        tasks.add_task(func, *args)
    task_id = tasks.enqueue()
    assert task_id
    return task_id


def effects() -> Counter[str]:
    """How often each effect was had."""
    return Counter(words[0] for words in read_notes() if len(words) == 1)


def test_retry__goes_on_with_the_call_that_failed(cluster: Cluster) -> None:
    """Five calls, the fourth failing twice: each is made once, the fourth three times."""
    task_id = enqueue((effect, "1"), (unpicklable, "2"), (effect, "3"), (effect_that_fails, "4", 2), (effect, "5"))
    with cluster(max_attempts=5):
        all_end()
    assert effects() >= Counter({"1": 1, "2": 1, "3": 1, "4": 3, "5": 1})
    assert effects()["1"] == effects()["2"] == effects()["3"] == effects()["5"] == 1
    task = Success.objects.get(pk=task_id)
    assert task.result == ["result of 1", None, "result of 3", "result of 4", "result of 5"]
    assert [path.rpartition(".")[2] for path, *_ in task.args] == [
        "effect",
        "unpicklable",
        "effect",
        "effect_that_fails",
        "effect",
    ]


@pytest.mark.parametrize("threads", [1, 40])
def test_retry__after_a_kill_too(cluster: Cluster, threads: int) -> None:
    """Killed in the fourth call after a failure in the third: what had been made when it failed is not made again."""
    task_id = enqueue((effect, "1"), (effect_that_fails, "2", 1), (effect, "3"), (die_once, 0.1), (index_of_call,))
    with cluster(max_attempts=5, threads=threads):
        all_end()
    found = effects()
    assert (found["1"], found["2"], found["3"]) == (1, 2 + 1, 2)
    assert fetch(task_id).result[-1] == 4
    assert sorted(FailedAttempt.objects.values_list("outcome", flat=True)) == ["failed", "lost"]


def test_verb_retry__goes_on_with_the_call_that_failed(cluster: Cluster) -> None:
    task_id = enqueue((effect, "1"), (effect_that_fails, "2", 2), (effect, "3"))
    with cluster(max_attempts=1):
        for _ in range(2):
            wait_until(lambda: not OrmQ.objects.exists(), what="it has ended")
            failure = Failure.objects.get(pk=task_id)
            assert failure.args[0][0] == DONE
            assert retry(task_id, by="alice") is Came.DONE
        all_end()
    assert (effects()["1"], effects()["2"], effects()["3"]) == (1, 3, 1)
    assert Success.objects.get(pk=task_id).result == ["result of 1", "result of 2", "result of 3"]


def test_call__that_leaves_a_transaction_open_was_not_made(cluster: Cluster) -> None:
    """Neither is what it wrote: the next attempt makes it again."""
    task_id = enqueue((effect, "1"), (side_by_side_tasks.begin_by_hand,), (effect, "3"))
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE mark (name varchar(50))")
    try:
        with cluster(max_attempts=2):
            all_end()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE mark")
    assert effects() == {"1": 1}
    assert "left a database transaction open" in Failure.objects.get(pk=task_id).result
    assert FailedAttempt.objects.count() == 2


def test_retry__of_a_result_that_can_be_pickled_only(cluster: Cluster) -> None:
    task_id = enqueue((half_picklable,), (effect_that_fails, "2", 1))
    with cluster(max_attempts=3):
        all_end()
    assert Success.objects.get(pk=task_id).result == [None, "result of 2"]


@selection.once
def test_limit__of_a_coroutine_among_the_calls(cluster: Cluster) -> None:
    """It leaves its worker alive, if the machine lets it end within `HEED`: a busy one may not, hence three tries."""
    with cluster(max_attempts=1, timeout=1):
        for _ in range(3):
            wait_until(lambda: Worker.objects.count() == 1, what="a worker works")
            worker = Worker.objects.get().pid
            task_id = enqueue((effect, "1"), (side_by_side_tasks.await_, 1000))
            all_end()
            assert "exceeded maximum timeout value (1 seconds)" in Failure.objects.get(pk=task_id).result
            enqueue((effect, "2"))  # one that retires claims nothing more: its successor runs this
            all_end()
            if [left.pid for left in Worker.objects.all()] == [worker]:
                return
    pytest.fail("its worker retired each time")


def test_progress__there_and_back() -> None:
    calls: tuple[Call, ...] = (("a.f", (1,), {}), ("a.g", (), {"key": 2}), ("a.h", (), {}))
    once = with_progress(calls, ["one"])
    twice = with_progress(once, ["one", lambda: None])
    assert once == ((DONE, ("one", *calls[0]), {}), *calls[1:])
    assert twice == (once[0], (DONE, (None, *calls[1]), {}), calls[2])
    assert without_progress(calls) == without_progress(once) == without_progress(twice) == calls
