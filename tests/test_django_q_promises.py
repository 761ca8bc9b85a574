"""What django-q2's documentation promises to those who queue (https://django-q2.readthedocs.io), kept by our own workers.

The tests queue in this process, and have a real cluster on the same database run what is due.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.models import Failure, OrmQ, Schedule, Success, Task
from django_q.signals import pre_enqueue
from django_q.status import Stat
from django_q.tasks import (
    AsyncTask,
    Chain,
    Iter,
    async_chain,
    async_iter,
    async_task,
    count_group,
    delete_cached,
    delete_group,
    fetch,
    fetch_group,
    queue_size,
    result,
    result_group,
    schedule,
)

from durable_queue.intake import packaging
from durable_queue.models import FailedAttempt, Worker
from durable_queue.store.broker import Broker
from durable_queue.store.leases import Settlement
from durable_queue.task.identifiers import queued_at
from durable_queue.work.follow_ups import follow_up
from durable_queue.work.outcomes import read
from tests.support import environment, promised_tasks, selection
from tests.support.processes import manage, queue_workers, wait_until
from tests.support.promised_tasks import notes_file, read_notes
from tests.support.queue_rows import worker as stored_worker

pytestmark = [pytest.mark.django_db(transaction=True), selection.slow_on_postgresql]

RunCluster = Callable[..., str]


@pytest.fixture(autouse=True)
def _no_notes() -> None:
    notes_file().unlink(missing_ok=True)


@pytest.fixture
def env() -> dict[str, str]:
    """The environment of other processes, in which they work on this test's database."""
    return {"DATABASE_URL": environment.database_url_of_test(), "DJANGO_SETTINGS_MODULE": "tests.support.promised_settings"}


@pytest.fixture
def run_cluster(env: dict[str, str]) -> RunCluster:
    """A function that runs what is due in a cluster of its own, until nothing is. Keywords differ in its `Q_CLUSTER`."""

    def run(*options: str, env_too: dict[str, str] | None = None, **q_cluster: Any) -> str:
        settings = {"TEST_Q_CLUSTER": json.dumps(q_cluster)}
        return manage("qcluster", "--run-once", *options, env=env | settings | (env_too or {}))

    return run


@contextmanager
def running_cluster(env: dict[str, str], tmp_path: Path, **q_cluster: Any) -> Iterator[None]:
    """A cluster that goes on until the end of the block."""
    settings = {"TEST_Q_CLUSTER": json.dumps(q_cluster)}
    with queue_workers(env=env | settings, output=tmp_path / "output") as process:
        wait_until(Worker.objects.exists, what="a worker works")
        yield
        process.terminate()
        assert process.wait(15) == 0


def run_path(name: str) -> str:
    """A task's dotted path."""
    return f"tests.support.promised_tasks.{name}"


ADD, FAIL, HOOK, GIVE_BACK = run_path("add"), run_path("fail"), run_path("hook"), run_path("give_back")


# async_task and its options.


def test_task__with_all_kinds_of_arguments(run_cluster: RunCluster) -> None:
    ids = [
        async_task(ADD, 1, 2),
        async_task(promised_tasks.add, 3, 4),
        async_task(GIVE_BACK, {"a": [1]}, key=Task(name="Alice")),
        async_task("math.copysign", 1, -1),
        async_task("builtins.dict.fromkeys", "ab"),
    ]
    run_cluster()
    values = [result(task_id) for task_id in ids]
    assert values[:2] == [3, 7]
    assert values[2][0] == [{"a": [1]}]
    assert values[2][1]["key"].name == "Alice"
    assert values[3:] == [-1, {"a": None, "b": None}]


def test_task__found_by_name_and_by_id(run_cluster: RunCluster) -> None:
    task_id = async_task(ADD, 1, 2, task_name="sum for alice")
    assert fetch(task_id) is None
    assert result("sum for alice") is None
    run_cluster()
    task = fetch("sum for alice")
    assert task == fetch(task_id)
    assert (task.id, task.name, task.func) == (task_id, "sum for alice", ADD)
    assert (tuple(task.args), task.kwargs, task.result, task.success, task.attempt_count) == ((1, 2), {}, 3, True, 1)
    assert task.cluster == "notifier"
    assert result("sum for alice") == 3


def test_task__started_is_when_it_ran(run_cluster: RunCluster) -> None:
    before = timezone.now()
    task_id = async_task(run_path("sleep"), 0.2)
    after = timezone.now()
    OrmQ.objects.update(lock=timezone.now())
    run_cluster()
    task = fetch(task_id)
    assert task.started > after
    assert 0.2 <= task.time_taken() < 5
    queued = queued_at(task_id)
    assert queued is not None
    assert before - timedelta(milliseconds=1) <= queued <= after


def test_options__in_q_options(run_cluster: RunCluster) -> None:
    options = {"task_name": "from options", "group": "options", "hook": HOOK, "timeout": 9}
    task_id = async_task(GIVE_BACK, group_of_mine="kept", q_options=options)
    run_cluster()
    task = fetch("from options")
    assert (task.id, task.group, task.hook, task.kwargs) == (task_id, "options", HOOK, {"group_of_mine": "kept"})


def test_save_false__successes_are_not_kept_but_failures_are(run_cluster: RunCluster) -> None:
    async_task(ADD, 1, 2, save=False, hook=HOOK)
    failed = async_task(FAIL, save=False)
    run_cluster()
    assert list(Task.objects.values_list("id", "success")) == [(failed, False)]
    assert OrmQ.objects.count() == 0
    assert sorted(words[0] for words in read_notes()) == [*["failed"] * 3, "hook"]


def test_save_limit__below_zero_keeps_what_asks_for_it(run_cluster: RunCluster) -> None:
    async_task(ADD, 1, 2)
    kept = async_task(ADD, 3, 4, save=True)
    run_cluster(save_limit=-1)
    assert [task.id for task in Task.objects.all()] == [kept]


def test_save_limit__older_successes_go(env: dict[str, str], tmp_path: Path) -> None:
    for number in range(5):
        async_task(ADD, number)
    with running_cluster(env, tmp_path, save_limit=2, workers=1):
        wait_until(lambda: OrmQ.objects.count() == 0, what="the tasks have run")
    with running_cluster(env, tmp_path, save_limit=2):  # prunes as it starts
        wait_until(lambda: Success.objects.count() == 2, what="older successes are gone")
    assert {task.result for task in Success.objects.all()} == {3, 4}


def test_sync__runs_in_the_callers_process() -> None:
    task_id = async_task(run_path("process_id"), sync=True, hook=HOOK, group="sync")
    assert result(task_id) == os.getpid()
    assert OrmQ.objects.count() == 0
    assert read_notes() == [["hook", "Task", task_id, True, os.getpid(), True]]
    with pytest.raises(ValueError, match="out loud"):
        async_task(FAIL, "out loud", sync=True)


def test_broker__goes_where_it_leads(run_cluster: RunCluster) -> None:
    async_task(ADD, 1, broker=get_broker("second"))
    assert list(OrmQ.objects.values_list("key", flat=True)) == ["second"]
    run_cluster()
    assert OrmQ.objects.count() == 1


def test_cluster__each_serves_its_own_queue(run_cluster: RunCluster) -> None:
    first, second = async_task(ADD, 1), async_task(ADD, 2, cluster="second")
    assert queue_size() == queue_size(get_broker("second")) == 1
    run_cluster("--name", "second")
    assert (fetch(first), result(second), fetch(second).cluster) == (None, 2, "second")
    run_cluster()
    assert (result(first), fetch(first).cluster) == (1, "notifier")


def test_cluster__with_settings_of_its_own(run_cluster: RunCluster) -> None:
    async_task(FAIL, cluster="second")
    run_cluster(env_too={"Q_CLUSTER_NAME": "second"}, ALT_CLUSTERS={"second": {"max_attempts": 1}})
    assert fetch(Failure.objects.get().id).attempt_count == 1


# Attempts.


def test_failure__every_attempt_is_made_and_the_last_error_kept(run_cluster: RunCluster) -> None:
    task_id = async_task(FAIL, "disk full", hook=HOOK)
    run_cluster()
    task = fetch(task_id)
    assert (task.success, task.attempt_count) == (False, 3)
    assert task.result.startswith("disk full : Traceback")
    assert [attempt.number for attempt in FailedAttempt.objects.filter(task_id=task_id)] == [1, 2, 3]
    assert [words[:4] for words in read_notes() if words[0] == "hook"] == [["hook", "Task", task_id, False]]


def test_failure__followed_by_a_success_has_one_row(run_cluster: RunCluster) -> None:
    task_id = async_task(run_path("fail_until"), 3)
    run_cluster()
    task = Task.objects.get()
    assert (task.id, task.success, task.result, task.attempt_count) == (task_id, True, 3, 3)


def test_retry__is_invisible_until_it_ends(env: dict[str, str], tmp_path: Path) -> None:
    task_id = async_task(run_path("fail_until_told"), task_name="retrying", group="retrying", hook=HOOK)
    with running_cluster(env, tmp_path, backoff_base=0.3, backoff_factor=1.0, max_attempts=0):
        wait_until(lambda: FailedAttempt.objects.count() >= 2, what="two attempts have failed")
        assert result(task_id) is fetch(task_id) is fetch("retrying") is result("retrying") is None
        assert result(task_id, wait=50) is None
        assert count_group("retrying") == count_group("retrying", failures=True) == 0
        assert [words[0] for words in read_notes() if words[0] == "hook"] == []
        promised_tasks.note("go")
        assert result(task_id, wait=5000) == "went"
        wait_until(lambda: read_notes()[-1][0] == "hook", what="the hook has run")
    assert read_notes()[-1] == ["hook", "Task", task_id, True, "went", True]
    assert fetch(task_id).attempt_count == FailedAttempt.objects.count() + 1


def test_ack_failure__makes_the_first_failure_the_last(run_cluster: RunCluster) -> None:
    by_option = async_task(FAIL, ack_failure=True)
    # django-q2 reads the setting where a task is queued: have a worker with it queue one.
    by_setting = async_task("django_q.tasks.async_task", FAIL)
    run_cluster(ack_failures=True)
    assert fetch(by_option).attempt_count == fetch(result(by_setting)).attempt_count == 1
    assert OrmQ.objects.count() == 0


def test_ack_failure__a_killed_worker_is_no_failure(run_cluster: RunCluster) -> None:
    task_id = async_task(run_path("kill_first_worker"), ack_failure=True)
    run_cluster()
    assert (result(task_id), fetch(task_id).attempt_count) == ("survived", 2)


def test_policy__by_decorator_and_by_setting(run_cluster: RunCluster) -> None:
    async_task(run_path("fail_twice_at_most"), task_name="by decorator")
    async_task(promised_tasks.fail_twice_at_most, task_name="by decorator, as a function")
    async_task(FAIL, task_name="by setting")
    run_cluster(retry_policies={FAIL: {"attempts": 1}})
    assert dict(Failure.objects.values_list("name", "attempt_count")) == {
        "by decorator": 2,
        "by decorator, as a function": 2,
        "by setting": 1,
    }


def test_timeout__of_the_task_before_that_of_the_cluster(run_cluster: RunCluster) -> None:
    shorter = [async_task(run_path("sleep"), 30, timeout=timeout) for timeout in (1, 0.5, 1.5)]
    longer = [async_task(run_path("sleep"), 1.2, timeout=timeout) for timeout in (20, -1)]
    as_configured = async_task(run_path("sleep"), 30)
    run_cluster("--workers", "6", timeout=1, max_attempts=1, claim=1)
    assert [result(task_id) for task_id in longer] == [1.2, 1.2]
    for task_id in (*shorter, as_configured):
        task = fetch(task_id)
        assert not task.success
        assert "exceeded maximum timeout value" in task.result
        assert task.time_taken() < 5


# Hooks.


def test_hook__gets_the_saved_task(run_cluster: RunCluster) -> None:
    by_path, by_function = async_task(ADD, 1, 2, hook=HOOK), async_task(ADD, 3, 4, hook=promised_tasks.hook)
    run_cluster()
    assert sorted(read_notes(), key=str) == sorted(
        [["hook", "Task", by_path, True, 3, True], ["hook", "Task", by_function, True, 7, True]], key=str
    )
    assert fetch(by_function).hook == HOOK


def test_hook__that_fails_or_is_missing_harms_nothing(run_cluster: RunCluster) -> None:
    ids = [async_task(ADD, 1, hook=hook) for hook in (run_path("failing_hook"), "nowhere.to_be_found", "malformed", HOOK)]
    run_cluster()
    assert [result(task_id) for task_id in ids] == [1] * 4
    assert [words[0] for words in read_notes()] == ["failing hook", "hook"]


def test_hook__of_a_function_that_does_not_exist(run_cluster: RunCluster) -> None:
    task_id = async_task(run_path("does_not_exist"), hook=HOOK)
    run_cluster()
    ((*called, reason, is_kept),) = read_notes()
    assert (called, is_kept) == (["hook", "Task", task_id, False], True), "once, after the last of its attempts"
    assert reason.startswith(f"There is no function {run_path('does_not_exist')}: the module ")
    assert FailedAttempt.objects.count() == 3


def test_hook__of_a_task_that_killed_its_workers(run_cluster: RunCluster) -> None:
    task_id = async_task("os.abort", hook=HOOK)
    run_cluster("--workers", "1")
    assert (fetch(task_id).success, fetch(task_id).attempt_count) == (False, 3)
    wait_until(read_notes, timeout=0.1, what="the hook has run")
    assert read_notes() == [["hook", "Task", task_id, False, "The worker was killed while it ran.", True]]


# Groups.


def test_group__results_and_counts(run_cluster: RunCluster) -> None:
    for number in range(3):
        async_task(ADD, number, group="alice")
    async_task(FAIL, group="alice", ack_failure=True)
    async_task(ADD, 9, group="bob")
    assert (result_group("alice"), fetch_group("alice"), count_group("alice")) == (None, None, 0)
    run_cluster()
    assert sorted(result_group("alice")) == [0, 1, 2]
    assert len(result_group("alice", failures=True, count=4, wait=1000)) == 4
    assert {task.success for task in fetch_group("alice")} == {True, False}
    assert len(fetch_group("alice", failures=False)) == 3
    assert (count_group("alice"), count_group("alice", failures=True)) == (4, 1)
    assert sorted(fetch_group("bob")[0].group_result()) == [9]


def test_group__deleted_with_and_without_its_tasks(run_cluster: RunCluster) -> None:
    async_task(ADD, 1, group="alice")
    async_task(ADD, 2, group="bob")
    run_cluster()
    delete_group("alice")
    assert (count_group("alice"), Task.objects.count()) == (0, 2)
    delete_group("bob", tasks=True)
    assert list(Task.objects.values_list("group", flat=True)) == [None]


def test_group__of_any_kind_of_name(run_cluster: RunCluster) -> None:
    async_task(ADD, 1, group=7)
    async_task(ADD, 2, group="seven")
    async_task(ADD, 3, group="x" * 200, task_name="y" * 200)
    run_cluster()
    assert [list(result_group(name)) for name in ("7", "seven", "x" * 100)] == [[1], [2], [3]]
    assert result("y" * 100) == 3


# Cached results.


def test_cached__kept_in_the_cache_alone(run_cluster: RunCluster) -> None:
    task_id = async_task(ADD, 1, 2, cached=True)
    assert result(task_id, cached=True) is None
    run_cluster()
    assert (result(task_id, cached=True), fetch(task_id, cached=True).result) == (3, 3)
    assert fetch(task_id) is None
    delete_cached(task_id)
    assert result(task_id, cached=True) is None


@selection.slow
def test_cached__for_some_seconds(run_cluster: RunCluster) -> None:
    short, long = async_task(ADD, 1, 2, cached=1), async_task(ADD, 1, 2, cached=60)
    run_cluster()
    wait_until(lambda: result(short, cached=True) is None, timeout=3, what="the result has expired")
    assert result(long, cached=True) == 3


def test_cached__groups(run_cluster: RunCluster) -> None:
    for number in range(4):
        async_task(ADD, number, cached=True, group="cached-by-alice")
    async_task(FAIL, cached=True, group="cached-by-alice")
    run_cluster()
    group = "cached-by-alice"
    assert sorted(result_group(group, cached=True)) == [0, 1, 2, 3]
    assert len(fetch_group(group, cached=True)) == 5
    assert (count_group(group, cached=True), count_group(group, cached=True, failures=True)) == (5, 1)
    assert Task.objects.count() == 0
    delete_group(group, cached=True)
    assert count_group(group, cached=True) is None


@selection.slow
def test_cached__by_setting(run_cluster: RunCluster) -> None:
    async_task("django_q.tasks.async_task", ADD, 1, 2, save=True, cached=False)
    run_cluster(cached=60)
    (outer,) = Task.objects.all()
    assert result(outer.result, cached=True) == 3


# Iter, Chain, AsyncTask.


def test_iter__collates_its_results_in_history(run_cluster: RunCluster) -> None:
    iter_id = async_iter(ADD, [(number, 1) for number in range(30)])
    assert result(iter_id) is None
    run_cluster("--workers", "3", claim=1)  # so that they add to the list at the same time
    assert sorted(result(iter_id)) == list(range(1, 31))
    task = fetch(iter_id)
    assert (task.success, list(task.args)) == (True, [(number, 1) for number in range(30)])
    assert Task.objects.count() == 1
    assert count_group(iter_id, cached=True) is None


@selection.slow
def test_iter__of_many(run_cluster: RunCluster) -> None:
    iter_id = async_iter(ADD, range(400))
    run_cluster()
    assert sorted(result(iter_id)) == list(range(400))


def test_iter__cached(run_cluster: RunCluster) -> None:
    iteration = Iter(ADD, cached=True)
    for number in range(3):
        iteration.append(number, 10)
    assert (iteration.length(), iteration.result()) == (3, None)
    iteration.run()
    run_cluster()
    assert sorted(iteration.result()) == [10, 11, 12]
    assert sorted(iteration.fetch().result) == [10, 11, 12]
    assert Task.objects.count() == 0


def test_iter__one_of_it_failed(run_cluster: RunCluster) -> None:
    iter_id = async_iter("math.floor", [1.5, "no number", 2.5])
    run_cluster("--workers", "1", max_attempts=1)
    task = fetch(iter_id)
    assert not task.success
    first, error, last = task.result
    assert (first, last) == (1, 2)
    assert error.startswith("must be real number, not str : Traceback")


@pytest.fixture
def worker() -> Worker:
    """A worker, as this process might be one."""
    return stored_worker("w")


def settle_at_the_second_try(worker: Worker) -> None:
    """Claim what is due, and have it succeed; the transaction that settles it is rolled back once and done again."""
    broker = Broker(follow_up=follow_up)
    rows = broker.settle_and_claim(worker, claim=128).rows
    now = timezone.now()
    ended = {"started": now, "stopped": now, "success": True, "result": "done"}
    settlements = [Settlement(row, {**read(row), **ended}) for row in rows]
    name, due = worker.lease, worker.lease_due
    with transaction.atomic():
        broker.settle_and_claim(worker, settlements)
        transaction.set_rollback(True)
    worker.lease, worker.lease_due = name, due
    broker.settle_and_claim(worker, settlements)


def test_iter__settled_at_the_second_try(worker: Worker) -> None:
    iter_id = async_iter(ADD, [1, 2, 3])
    OrmQ.objects.filter(pk=OrmQ.objects.order_by("-pk")[0].pk).update(lock=timezone.now() + timedelta(hours=1))
    settle_at_the_second_try(worker)
    assert result(iter_id) is None
    assert count_group(iter_id, cached=True) == 2
    OrmQ.objects.update(lock=timezone.now())
    settle_at_the_second_try(worker)
    assert result(iter_id) == ["done"] * 3
    assert count_group(iter_id, cached=True) is None


def test_chain__settled_at_the_second_try(worker: Worker) -> None:
    group = async_chain([(ADD, (1,)), (GIVE_BACK, ("second",)), (ADD, (3,))])
    for count in (1, 2, 3):
        settle_at_the_second_try(worker)
        assert count_group(group) == count
    assert [task.func for task in Task.objects.order_by("started")] == [ADD, GIVE_BACK, ADD]
    assert OrmQ.objects.count() == 0


def test_chain__runs_in_order(run_cluster: RunCluster) -> None:
    chain = Chain()
    chain.append(ADD, 1, 2)
    chain.append(run_path("note"), "second")
    chain.append("math.floor", 4.5)
    assert (chain.length(), chain.current(), chain.result()) == (3, None, None)
    chain.run()
    assert OrmQ.objects.count() == 1
    run_cluster()
    assert chain.current() == 3
    assert [task.func for task in Task.objects.order_by("started")] == [ADD, run_path("note"), "math.floor"]
    assert len(chain.result()) == len(chain.fetch()) == 3


@pytest.mark.parametrize("cached", [False, True], ids=["history", "cached"])
def test_chain__stops_at_a_failure(run_cluster: RunCluster, cached: bool) -> None:
    group = async_chain([(ADD, (1,)), (FAIL, ()), (run_path("note"), ("never",))], cached=cached)
    run_cluster()
    assert list(result_group(group, cached=cached)) == [1]
    assert count_group(group, failures=True, cached=cached) == 1
    assert read_notes() == [["failed", "as always"]] * 3


def test_chain__goes_on_after_a_retry(run_cluster: RunCluster) -> None:
    group = async_chain([(run_path("fail_until"), (2,)), (ADD, (40, 2))])
    run_cluster()
    assert sorted(result_group(group)) == [2, 42]


def test_async_task_class(run_cluster: RunCluster) -> None:
    task = AsyncTask(ADD, 1, 2, group="by-class", hook=HOOK)
    assert (task.started, task.result(), task.fetch()) == (False, None, None)
    task.run()
    run_cluster()
    assert (task.result(), task.fetch().result, list(task.result_group()), len(task.fetch_group())) == (3, 3, [3], 1)
    task.args = (4,)
    task.cached = True
    task.run()
    run_cluster()
    assert (task.result(), task.result_group()) == (4, [4])


# Queueing.


def test_queueing__in_a_transaction_that_rolls_back(run_cluster: RunCluster) -> None:
    async_task(run_path("queue_another_and_roll_back"), task_name="rolls back", ack_failure=True)
    with transaction.atomic():
        async_task(ADD, 1)
        transaction.set_rollback(True)
    assert queue_size() == 1
    run_cluster()
    assert list(Task.objects.values_list("name", "success")) == [("rolls back", False)]


def test_queueing__within_a_task(run_cluster: RunCluster) -> None:
    outer = async_task(run_path("queue_another"), 1, 2)
    run_cluster()
    assert result(result(outer)) == 3


def test_queue_size__counts_what_is_due_here(run_cluster: RunCluster) -> None:
    for number in range(3):
        async_task(ADD, number)
    async_task(ADD, 3, cluster="second")
    first = OrmQ.objects.order_by("pk")[0]
    OrmQ.objects.filter(pk=first.pk).update(lock=timezone.now() + timedelta(hours=1))
    broker = get_broker()
    assert (queue_size(), broker.lock_size()) == (2, 1)
    broker.purge_queue()
    assert (queue_size(), queue_size(get_broker("second"))) == (0, 1)


def test_result__waits(env: dict[str, str], tmp_path: Path) -> None:
    with running_cluster(env, tmp_path):
        task_id = async_task(run_path("sleep"), 0.5)
        assert result(task_id) is None
        assert result(task_id, wait=1) is None
        assert result(task_id, wait=5000) == 0.5
        assert fetch(async_task(ADD, 1), wait=-1).result == 1
        async_task(ADD, 5, group="waited for")
        async_task(ADD, 6, group="waited for")
        assert sorted(result_group("waited for", count=2, wait=5000)) == [5, 6]
        assert result(async_task(ADD, 7, cached=True), wait=5000, cached=True) == 7


# Signals and error reporters.


def test_signals__are_sent(run_cluster: RunCluster) -> None:
    queued = []

    def note_queued(sender: str, task: dict[str, Any], **_: Any) -> None:
        queued.append((sender, task["id"], task["func"]))

    pre_enqueue.connect(note_queued)
    good, bad = async_task(ADD, 1, 2), async_task(FAIL, ack_failure=True)
    pre_enqueue.disconnect(note_queued)
    assert queued == [("django_q", good, ADD), ("django_q", bad, FAIL)]

    run_cluster("--workers", "1", env_too={"TEST_SIGNALS": "1"})
    sent = read_notes()
    assert sent[0][0] == "post_spawn"
    assert {words[1]["sender"] for words in sent if len(words) == 2 and isinstance(words[1], dict)} == {"django_q"}
    of_good = [words for words in sent if isinstance(words[1], dict) and words[1]["id"] == good]
    assert [words[0] for words in of_good] == ["pre_execute", "post_execute_in_worker", "post_execute"]
    assert [words[1]["func"] for words in of_good] == ["add", "add", None]
    assert [words[1]["result"] for words in of_good] == [None, 3, 3]
    assert of_good[-1][1]["task_func"] == ADD
    of_bad = [words for words in sent if isinstance(words[1], dict) and words[1]["id"] == bad]
    assert [words[0] for words in of_bad] == ["pre_execute", "post_execute_in_worker", "post_execute"]
    assert [words[1]["success"] for words in of_bad] == [None, False, False]


def test_signals__find_in_a_task_when_it_was_queued(run_cluster: RunCluster) -> None:
    before = timezone.now()
    task_ids = {async_task(ADD, 1, 2), packaging.enqueue(ADD, (1, 2), {}, name="sum")}
    after = timezone.now()
    run_cluster(env_too={"TEST_SIGNALS": "1"})
    notes = [(words[0], words[1]) for words in read_notes() if isinstance(words[1], dict) and words[1]["id"] in task_ids]
    queued = [datetime.fromisoformat(note["started"]) for name, note in notes if name != "post_execute"]
    assert len(queued) == 4  # pre_execute and post_execute_in_worker
    assert all(before - timedelta(milliseconds=1) <= moment <= after for moment in queued)  # an id tells milliseconds


def test_signals__post_execute_comes_once_for_a_retried_task(run_cluster: RunCluster) -> None:
    async_task(FAIL)
    run_cluster(env_too={"TEST_SIGNALS": "1"})
    names = [words[0] for words in read_notes()]
    assert (names.count("pre_execute"), names.count("post_execute_in_worker"), names.count("post_execute")) == (3, 3, 1)


@pytest.fixture
def reporter_package(tmp_path: Path) -> dict[str, str]:
    """An installed package that offers an error reporter; the environment that finds it."""
    folder = tmp_path / "site" / "promised-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: promised\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[djangoq.errorreporters]\npromised = tests.support.promised_tasks:Reporter\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder.parent), os.environ.get("PYTHONPATH", "")])}


def test_error_reporter__hears_of_each_error(run_cluster: RunCluster, reporter_package: dict[str, str]) -> None:
    errors = {
        FAIL: "ValueError('as always')",
        "tests.support.raises_on_import.anything": "raises_on_import",
        "sys.exit": "SystemExit()",
        run_path("does_not_exist"): "There is no function",
    }
    for path in errors:
        async_task(path)
    reporter = {"promised": {"token": "t"}}
    run_cluster("--workers", "1", max_attempts=1, error_reporter=reporter, env_too=reporter_package)
    reports = [words[1:] for words in read_notes() if words[0] == "reported"]
    assert [token for token, _ in reports] == ["t"] * 4
    for (_, error), expected in zip(reports, errors.values(), strict=True):
        assert expected in error


# Workers.


def test_title__shows_the_task_where_setproctitle_is_installed(run_cluster: RunCluster, tmp_path: Path) -> None:
    (tmp_path / "setproctitle.py").write_text(
        f"def setproctitle(title): print(title, file=open({str(tmp_path / 'titles')!r}, 'a'))"
    )
    async_task(ADD, 1, 2, task_name="sum for alice")
    run_cluster("--workers", "1", env_too={"PYTHONPATH": str(tmp_path)})
    titles = [line.partition(" ")[2].partition(" ")[2] for line in (tmp_path / "titles").read_text().splitlines()]
    assert titles == ["idle", f"processing sum for alice '{ADD}'", "idle"]


def test_recycle__after_so_many_tasks(env: dict[str, str], tmp_path: Path) -> None:
    ids = [async_task(run_path("process_id")) for _ in range(6)]
    with running_cluster(env, tmp_path, recycle=2, workers=1):
        wait_until(lambda: Success.objects.count() == 6, what="all have run")
    pids = [result(task_id) for task_id in ids]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]


def test_max_rss__a_worker_that_grew_is_replaced(env: dict[str, str], tmp_path: Path) -> None:
    ids = [async_task(run_path("grow"), 300), async_task(run_path("process_id")), async_task(run_path("process_id"))]
    with running_cluster(env, tmp_path, max_rss=250_000, workers=1):
        wait_until(lambda: Success.objects.count() == 3, what="all have run")
    pids = [result(task_id) for task_id in ids]
    assert pids[0] != pids[1] == pids[2]


def test_run_once__goes_on_after_recycling_and_timeouts(run_cluster: RunCluster) -> None:
    for number in range(7):
        async_task(ADD, number)
    run_cluster("--workers", "1", recycle=2)
    assert Success.objects.count() == 7


def test_workers__may_start_processes(run_cluster: RunCluster) -> None:
    task_id = async_task(run_path("parent"))
    run_cluster()
    assert result(task_id) == 7


def test_coroutine_function(run_cluster: RunCluster) -> None:
    task_id = async_task(run_path("sleep_async"), 0.01)
    run_cluster()
    assert result(task_id) == "slept"


def test_arguments__that_the_task_spoiled(run_cluster: RunCluster) -> None:
    async_task(run_path("spoil"), [], task_name="spoils")
    async_task(ADD, 1, task_name="beside it")
    run_cluster("--workers", "1")
    assert result("beside it") == 1
    assert OrmQ.objects.count() == 0
    assert Task.objects.count() == 2


# Schedules.


def test_schedules__of_every_type(env: dict[str, str], tmp_path: Path) -> None:
    due = timezone.now() - timedelta(minutes=3, seconds=30)
    spans = {
        Schedule.MINUTES: (timedelta(minutes=5), timedelta(minutes=5)),
        Schedule.HOURLY: (timedelta(hours=1), timedelta(hours=1)),
        Schedule.DAILY: (timedelta(days=1), timedelta(days=1)),
        Schedule.WEEKLY: (timedelta(weeks=1), timedelta(weeks=1)),
        Schedule.BIWEEKLY: (timedelta(weeks=2), timedelta(weeks=2)),
        Schedule.MONTHLY: (timedelta(days=28), timedelta(days=31)),
        Schedule.BIMONTHLY: (timedelta(days=59), timedelta(days=62)),
        Schedule.QUARTERLY: (timedelta(days=89), timedelta(days=92)),
        Schedule.YEARLY: (timedelta(days=365), timedelta(days=366)),
    }
    assert {name for name, _ in Schedule.TYPE} == {Schedule.ONCE, Schedule.CRON, *spans}
    for kind in spans:
        schedule(ADD, 1, 2, name=f"of type {kind}", schedule_type=kind, minutes=5, next_run=due)
    schedule(ADD, 1, 2, name="once", next_run=due)
    schedule(ADD, 1, 2, name="later", next_run=timezone.now() + timedelta(hours=1))
    with running_cluster(env, tmp_path):
        wait_until(lambda: Success.objects.count() == len(spans) + 1, what="each has run")
        wait_until(lambda: not Schedule.objects.filter(name="once").exists(), what="it is deleted")
    for kind, (least, most) in spans.items():
        one = Schedule.objects.get(name=f"of type {kind}")
        assert least <= one.next_run - due <= most
        assert (one.repeats, one.success(), list(result_group(f"of type {kind}"))) == (-1, True, [3])
    assert list(result_group("once")) == [3]
    assert fetch_group("later") is None


def test_schedule__repeats_as_often_as_it_says(env: dict[str, str], tmp_path: Path) -> None:
    due = timezone.now() - timedelta(minutes=10)
    schedule(ADD, 1, name="twice", schedule_type=Schedule.MINUTES, minutes=1, repeats=2, next_run=due)
    schedule(ADD, 1, name="never", schedule_type=Schedule.MINUTES, minutes=1, repeats=0, next_run=due)
    schedule(ADD, 1, name="once and kept", repeats=1, next_run=due)
    with running_cluster(env, tmp_path, catch_up=True):
        wait_until(lambda: Success.objects.count() == 3, what="all have run")
        wait_until(lambda: not Schedule.objects.exclude(repeats=0).exists(), what="no repeats are left")
    assert (count_group("twice"), count_group("once and kept"), count_group("never")) == (2, 1, 0)
    assert set(Schedule.objects.values_list("repeats", flat=True)) == {0}


@selection.slow
def test_schedule__catches_up_or_does_not(env: dict[str, str], tmp_path: Path) -> None:
    due = timezone.now() - timedelta(minutes=1, seconds=30)
    for name, cluster in (("caught up", None), ("not caught up", "second")):
        schedule(ADD, 1, name=name, schedule_type=Schedule.MINUTES, minutes=1, next_run=due, cluster=cluster)
    with running_cluster(env, tmp_path, catch_up=True):
        wait_until(lambda: count_group("caught up") == 2, what="all that was missed has run")
    with running_cluster(env | {"Q_CLUSTER_NAME": "second"}, tmp_path, catch_up=False):
        wait_until(lambda: count_group("not caught up") == 1, what="the missed one has run")
    assert all(one.next_run > timezone.now() - timedelta(seconds=10) for one in Schedule.objects.all())


@selection.slow
def test_schedule__with_hook_arguments_and_cluster(env: dict[str, str], tmp_path: Path) -> None:
    due = timezone.now() - timedelta(seconds=1)
    options = {"q_options": {"timeout": 5, "task_name": "named by options"}}
    schedule(GIVE_BACK, "bob", 1.5, hook=HOOK, key=[1], next_run=due, intended_date_kwarg="at", **options)
    schedule(ADD, 1, name="elsewhere", cluster="second", next_run=due)
    with running_cluster(env, tmp_path):
        wait_until(read_notes, what="the hook has run")
        assert fetch_group("elsewhere") is None
    assert result("named by options") == (["bob", 1.5], {"key": [1], "at": due.isoformat()})
    with running_cluster(env | {"Q_CLUSTER_NAME": "second"}, tmp_path):
        wait_until(lambda: count_group("elsewhere") == 1, what="the other cluster has run its own")
    assert fetch_group("elsewhere")[0].cluster == "second"


@selection.slow
def test_schedule__with_a_cron_expression(env: dict[str, str], tmp_path: Path) -> None:
    one = schedule(ADD, 1, name="cron", schedule_type=Schedule.CRON, cron="* * * * *")
    assert timezone.now() < one.next_run <= timezone.now() + timedelta(minutes=1)
    Schedule.objects.update(next_run=timezone.now() - timedelta(hours=2))
    with running_cluster(env, tmp_path):
        wait_until(lambda: count_group("cron") == 1, what="it has run")
    one.refresh_from_db()
    assert one.next_run > timezone.now() - timedelta(seconds=30)


def test_scheduler__can_be_turned_off(env: dict[str, str], tmp_path: Path) -> None:
    schedule(ADD, 1, name="not now", next_run=timezone.now() - timedelta(hours=1))
    with running_cluster(env, tmp_path, scheduler=False):
        assert result(async_task(ADD, 2), wait=5000) == 2
        wait_until(lambda: Worker.objects.filter(lease__isnull=True).exists(), what="a worker is idle")
    assert fetch_group("not now") is None


# What shows the clusters.


def test_stat__shows_every_cluster_from_any_process(env: dict[str, str], tmp_path: Path) -> None:
    assert Stat.get_all() == []
    before = timezone.now()
    with running_cluster(env, tmp_path, workers=3):
        wait_until(lambda: Worker.objects.count() == 3, what="all workers work")
        (stat,) = Stat.get_all()
        assert sorted(stat.workers) == sorted(Worker.objects.values_list("pid", flat=True))
        assert stat.sentinel == stat.pid == Worker.objects.first().supervisor_pid  # type: ignore[union-attr]
        assert before <= stat.tob <= timezone.now()
        assert 0 <= stat.uptime() < 15
        assert stat.empty_queues()
        assert str(stat.status) == "Idle"
        assert Stat.get(pid=stat.pid, cluster_id=stat.cluster_id).workers == stat.workers
        os.kill(stat.workers[0], signal.SIGKILL)
        wait_until(lambda: [one.reincarnations for one in Stat.get_all()] == [1], what="the loss shows")
        async_task(run_path("sleep"), 1)
        wait_until(lambda: "Working" in [str(one.status) for one in Stat.get_all()], what="the work shows")
    assert Stat.get_all() == []


def test_commands__show_every_cluster(env: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*command: str) -> str:
        call_command(*command)
        return "".join(capsys.readouterr().out.split())

    async_task(ADD, 1)
    with running_cluster(env, tmp_path, workers=2):
        wait_until(lambda: Success.objects.count() == 1, what="the task has run")
        wait_until(lambda: Worker.objects.count() == 2, what="both workers work")
        supervisor = str(Worker.objects.all()[0].supervisor)
        info = shown("qinfo")
        assert "Clusters1Workers2" in info
        assert "Successes1Failures0" in info
        assert supervisor in shown("qinfo", "--ids")
        assert "CLUSTER_NAME:notifier" in shown("qinfo", "--config")
        assert supervisor[-8:] in shown("qmonitor", "--run-once")
        assert supervisor[-8:] in shown("qmemory", "--run-once", "--workers")
    assert "Clusters0Workers0" in shown("qinfo")


def test_history__tells_when_a_task_was_queued() -> None:
    assert queued_at("0" * 32) is None
    queued = queued_at(async_task(ADD, 1))
    assert queued is not None
    assert timedelta(0) <= datetime.now(UTC) - queued < timedelta(seconds=5)
