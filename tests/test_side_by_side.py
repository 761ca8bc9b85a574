"""Many slow tasks run at once in each worker; one that misbehaves harms none of those beside it."""

import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from django_q.models import Failure, OrmQ, Success, Task
from django_q.tasks import async_task, fetch, result

from durable_queue.intake import packaging
from durable_queue.intake.background_tasks import BackgroundTasks
from durable_queue.intake.packaging import new_task
from durable_queue.models import FailedAttempt, Worker
from durable_queue.task import signing
from tests.support import environment, selection, side_by_side_tasks, thread_tasks
from tests.support.clusters import Cluster, all_end, wait_until_begun
from tests.support.processes import wait_until
from tests.support.promised_tasks import read_notes

pytestmark = pytest.mark.django_db(transaction=True)


def path(name: str) -> str:
    """A task's dotted path."""
    return f"tests.support.side_by_side_tasks.{name}"


WAIT, AWAIT, COMPUTE, ALONE, DIE = path("wait"), path("await_"), path("compute"), path("wait_alone"), path("die")


@pytest.fixture(autouse=True)
def _table(no_notes: None) -> Iterator[None]:
    """A table that tasks write to."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE mark (name varchar(50))")
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE mark")


def most_at_once(runs: list[dict[str, Any]]) -> int:
    """How many were running at the same moment, at most."""
    moments = sorted([(run["began"], 1) for run in runs] + [(run["ended"], -1) for run in runs])
    now = most = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


def results() -> list[dict[str, Any]]:
    """What the tasks that succeeded have returned."""
    return [task.result for task in Success.objects.all()]


# Side by side.


@selection.once
@pytest.mark.parametrize(("function", "count"), [(WAIT, 40), (AWAIT, 300)])
def test_waiting__many_at_once(cluster: Cluster, function: str, count: int) -> None:
    with cluster():
        with transaction.atomic():
            ids = [async_task(function, 0.5) for _ in range(count)]
        started = time.monotonic()
        all_end()
        took = time.monotonic() - started
    runs = results()
    assert len(runs) == count
    assert most_at_once(runs) >= count / 2
    assert took < 0.2 * count * 0.5
    assert len({run["pid"] for run in runs}) == 1
    assert not any(run["is_main"] for run in runs)
    assert {result(task_id)["task"] for task_id in ids} == set(ids)
    assert all(result(task_id)["task"] == task_id for task_id in ids)


@selection.slow_on_postgresql
@selection.once
def test_waiting__no_more_than_there_are_threads(cluster: Cluster) -> None:
    with cluster(threads=3):
        for _ in range(12):
            async_task(WAIT, 0.2)
        all_end()
    assert most_at_once(results()) == 3


@selection.slow_on_postgresql
@selection.once
def test_coroutines__no_more_than_configured(cluster: Cluster) -> None:
    with cluster(coroutines=5):
        for _ in range(20):
            async_task(AWAIT, 0.2)
        all_end()
    assert most_at_once(results()) == 5


@selection.slow_on_postgresql
@selection.once
def test_one_thread__one_at_a_time_in_the_main_thread(cluster: Cluster) -> None:
    with cluster(threads=1):
        for _ in range(3):
            async_task(WAIT, 0.2)
            async_task(AWAIT, 0.2)
        all_end()
    runs = results()
    assert most_at_once(runs) == 1
    assert all(run["is_main"] for run in runs)


@selection.slow
@selection.once
def test_computing__not_many_at_once(cluster: Cluster) -> None:
    with cluster():
        for _ in range(12):
            async_task(COMPUTE, 0.3)
        all_end()
    assert most_at_once(results()) <= 3


@selection.slow_on_postgresql
@selection.once
def test_quick_ones__pass_slow_ones(cluster: Cluster) -> None:
    """Whatever the queue has before them."""
    with cluster():
        for _ in range(20):
            async_task(WAIT, 3)
        wait_until(lambda: OrmQ.objects.count() == 20, what="they are queued")
        ids = [async_task("math.copysign", 1, -1) for _ in range(50)]
        wait_until(lambda: all(map(fetch, ids)), timeout=2.5, what="the quick ones have run")
        all_end()


# How soon it is settled.


@pytest.mark.parametrize("leader", selection.slow_after(1, ["busy", "waiting", "none"]))
def test_settled__soon_after_its_end(cluster: Cluster, leader: str) -> None:
    with cluster(threads=2 if leader == "none" else 40):
        if leader == "none":
            async_task(WAIT, 3)
        for _ in range(3):  # so that it is known to wait
            task_id = async_task(WAIT, 0.3)
            wait_until(functools.partial(fetch, task_id), what="it has run")
        task_id = async_task(WAIT, 0.8)
        time.sleep(0.2)
        if leader == "busy":
            async_task(COMPUTE, 2)
        wait_until(lambda: (task := fetch(task_id)) and task.result, what="it is settled")
        late = time.time() - result(task_id)["ended"]
        all_end()
    assert late < 0.9  # 0.15 on a quiet machine: `scripts/bench io`; 1.4 behind the busy one


@selection.slow_on_postgresql
@selection.once
def test_hook__holds_nobody(cluster: Cluster) -> None:
    with cluster():
        async_task("math.copysign", 1, -1, hook=path("slow_hook"))
        wait_until(read_notes, what="the hook has begun")
        started = time.monotonic()
        for _ in range(3):
            task_id = async_task("math.copysign", 1, -1)
            wait_until(functools.partial(fetch, task_id), what="it has run")
        assert time.monotonic() - started < 1.2


# Blame.


@selection.slow_on_postgresql
def test_death__with_several_in_hand_charges_none_of_them(cluster: Cluster) -> None:
    with cluster() as output:
        good = [async_task(WAIT, 1.0) for _ in range(6)]
        async_task(path("die_once"), 0.5)
        all_end()
    assert not FailedAttempt.objects.exists()
    runs = [result(task_id) for task_id in good]
    assert len({run["pid"] for run in runs}) <= 4
    assert all(run["is_main"] for run in runs), "they ran alone"
    assert "died with 7 tasks in hand: from now on each of them runs alone" in output.read_text()


@selection.slow
def test_death__suspects_that_began_last_come_first(cluster: Cluster) -> None:
    with cluster():
        slow = [async_task(WAIT, 2.0) for _ in range(8)]
        async_task(path("die_once"), 1.0)
        time.sleep(0.7)
        late = async_task(WAIT, 0.6)
        all_end()
    assert fetch(late).stopped < min(fetch(task_id).stopped for task_id in slow)


def test_death__of_a_poison_beside_others(cluster: Cluster) -> None:
    with cluster(max_attempts=3, timeout=20):
        good = [async_task(WAIT, 1.0) for _ in range(8)]
        bad = async_task(DIE, 0.3)
        all_end(timeout=30)
    assert {attempt.task_id for attempt in FailedAttempt.objects.all()} == {bad}
    assert (fetch(bad).success, fetch(bad).attempt_count) == (False, 3)
    assert all(fetch(task_id).attempt_count == 1 for task_id in good)


def test_death__with_one_in_hand_charges_it(cluster: Cluster) -> None:
    with cluster(max_attempts=2):
        bad = async_task(DIE)
        all_end()
    assert [attempt.outcome for attempt in FailedAttempt.objects.filter(task_id=bad)] == ["lost"] * 2


@selection.slow_on_postgresql
@pytest.mark.parametrize("hangs", selection.slow_after(1, ["wait", "receive_for_ever"]))
def test_overdue__is_charged_and_nothing_beside_it(cluster: Cluster, hangs: str) -> None:
    arguments = () if hangs == "receive_for_ever" else (1000,)
    with cluster(max_attempts=1):
        good = [async_task(path("note_and_wait"), f"good {number}", 6) for number in range(5)]
        bad = async_task(path(hangs), *arguments, timeout=1)
        wait_until(lambda: len(read_notes()) == 5, what="they run")
        time.sleep(1.5)
        started = time.monotonic()
        after = async_task("math.copysign", 1, -1)
        wait_until(lambda: fetch(after), timeout=2.0, what="a successor works at once")
        all_end(timeout=20)
        assert time.monotonic() - started < 12
    assert sorted(words[0] for words in read_notes()) == [f"good {number}" for number in range(5)]
    assert all(fetch(task_id).attempt_count == 1 for task_id in good)
    (attempt,) = FailedAttempt.objects.all()
    assert (attempt.task_id, attempt.outcome) == (bad, "overdue")


@selection.slow_on_postgresql
@selection.once
def test_limit__interrupts_what_runs_python(cluster: Cluster) -> None:
    """In a thread, on the event loop, in a hook: the worker goes on."""
    with cluster(max_attempts=1, timeout=2) as output:
        beside = async_task(path("note_and_wait"), "beside", 4, timeout=10)
        computes = async_task(path("compute"), 1000, timeout=1.5)
        awaits = async_task(AWAIT, 1000, timeout=0.5)
        hooked = async_task("math.copysign", 1, -1, hook=path("hanging_hook"))
        wait_until(read_notes, what="they run")
        worker = Worker.objects.get().pid
        wait_until(lambda: "The hook" in output.read_text(), what="the hook is interrupted")
        all_end()
        assert Worker.objects.get().pid == worker
    assert fetch(beside).success
    assert fetch(hooked).success
    for task_id, limit in ((computes, "1.5"), (awaits, "0.5")):
        assert not fetch(task_id).success
        assert f"Task exceeded maximum timeout value ({limit} seconds)" in fetch(task_id).result


def test_limit__commits_are_whole(cluster: Cluster) -> None:
    with cluster(max_attempts=1):
        ids = [async_task(path("commit_for_ever"), timeout=0.3 + number / 100) for number in range(40)]
        all_end(timeout=40)
        after = [async_task(path("query"), 0) for _ in range(40)]
        wait_until(lambda: all(map(fetch, after)), what="the connections can be used")
    assert all("Task exceeded maximum timeout value" in fetch(task_id).result for task_id in ids)
    assert all(fetch(task_id).success for task_id in after)
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(CASE name WHEN 'one' THEN 1 ELSE -1 END) FROM mark")
        assert cursor.fetchone() == (0,)


@selection.slow
@selection.once
def test_limit__lines_are_whole(cluster: Cluster) -> None:
    """A write that has begun comes to its end, and the worker goes on writing."""
    with cluster(max_attempts=1):
        for number in range(20):
            async_task(path("write_for_ever"), f"{number}", timeout=0.1 + number / 100)
        all_end(timeout=30)
    lines = Path(os.environ["NOTIFIER_LOG_FILE"]).read_text().splitlines()
    for name, noted in read_notes():
        written = [line for line in lines if line.startswith(f"{name}: ")]
        assert written == [f"{name}: {number}" for number in range(len(written))]
        assert len(written) in (noted, noted + 1)
    assert len(read_notes()) == 20


def test_limit__of_coroutines_that_have_queried(cluster: Cluster) -> None:
    with cluster(max_attempts=1):
        late = [async_task(path("query_then_wait"), 1000, timeout=0.5) for _ in range(60)]
        all_end()
        (worker,) = Worker.objects.all()
        after = [async_task(path("query_in_coroutine"), 0.0) for _ in range(60)]
        all_end()
        assert Worker.objects.get().pid == worker.pid
    assert all("exceeded maximum timeout value" in fetch(task_id).result for task_id in late)
    assert all(fetch(task_id).success for task_id in after)


@selection.slow
@selection.once
def test_limit__of_each_call(cluster: Cluster) -> None:
    with cluster(max_attempts=1, timeout=2, retry_policies={WAIT: {"timeout": 5}}):
        tasks = BackgroundTasks()
        for _ in range(6):
            tasks.add_task(side_by_side_tasks.compute, 0.4)
        tasks.add_task(side_by_side_tasks.wait, 2.5)
        within = tasks.enqueue()
        tasks = BackgroundTasks()
        tasks.add_task(side_by_side_tasks.compute, 0.1)
        tasks.add_task(side_by_side_tasks.compute, 1000)
        over = tasks.enqueue()
        all_end()
    assert fetch(within).success
    assert f"The call of {COMPUTE} exceeded maximum timeout value (2 seconds)" in fetch(over).result


@selection.slow_on_postgresql
@selection.once
@pytest.mark.parametrize("threads", selection.slow_after(1, [40, 1]))
def test_limit__of_receivers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """They cost the task that they hold up, and once it has ended, nothing."""
    monkeypatch.setenv("TEST_SIGNALS", "1")
    signals = ("pre_execute", "post_execute_in_worker", "post_execute")
    with cluster(max_attempts=1, timeout=1, threads=threads) as output:
        bad = {name: async_task("math.copysign", 1, -1, task_name=f"hangs in {name}") for name in signals}
        bad["coroutine"] = async_task(AWAIT, 0.1, task_name="hangs in pre_execute")
        good = [async_task("math.copysign", 1, -1, hook=path("quick_hook")) for _ in range(20)]
        wait_until(lambda: all(map(fetch, bad.values())), timeout=30, what="they have ended")
        wait_until(lambda: all(map(fetch, good)), what="the others have ended")
        wait_until(lambda: "A receiver of post_execute, told of hangs in" in output.read_text(), what="it is named")
        all_end()
    assert [fetch(task_id).success for task_id in bad.values()] == [False, False, True, False]
    for name in signals[:2]:
        assert f"A receiver of {name} exceeded maximum timeout value (1 seconds)" in fetch(bad[name]).result
    assert sum(words[0] == "quick hook" for words in read_notes()) == 20


@selection.once
@pytest.mark.parametrize("threads", selection.slow_after(1, [40, 1]))
def test_receiver__that_blocks_holds_no_task(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """In a call that hears nothing: of those that were claimed with its task, none waits for it."""
    monkeypatch.setenv("TEST_SIGNALS", "1")
    with cluster(max_attempts=1, timeout=1, threads=threads) as output:
        with transaction.atomic():
            bad = async_task("math.copysign", 1, -1, task_name="blocks in post_execute")
            good = [async_task("math.copysign", 1, -1) for _ in range(128)]
        all_end(timeout=10)
        wait_until(lambda: "A receiver of post_execute, told of blocks in" in output.read_text(), what="it is named")
        late = async_task("math.copysign", 1, -1)
        wait_until(lambda: fetch(late), what="the queue goes on")
    assert Success.objects.filter(pk__in=[bad, late, *good]).count() == 130
    assert not FailedAttempt.objects.exists()


@selection.slow_on_postgresql
@selection.once
def test_hook__that_hangs_ends_its_worker_and_charges_nothing(cluster: Cluster) -> None:
    with cluster(timeout=2):
        async_task("math.copysign", 1, -1, hook=path("blocking_hook"))
        wait_until(read_notes, what="the hook hangs")
        first = Worker.objects.get().pid
        wait_until(lambda: not Worker.objects.filter(pid=first).exists(), timeout=20, what="its worker ends")
        good = async_task(WAIT, 0.1)
        wait_until(lambda: fetch(good), what="the queue goes on")
    assert not FailedAttempt.objects.exists()


@selection.slow
@selection.once
def test_overdue__a_coroutine_that_blocks_the_event_loop(cluster: Cluster) -> None:
    """Its neighbours in the loop can't go on, and can't help it."""
    with cluster(max_attempts=2, backoff_base=30) as output:
        good = [async_task(AWAIT, 3, timeout=6) for _ in range(20)]
        in_thread = async_task(path("note_and_wait"), "in a thread", 8)
        wait_until_begun(21)
        bad = async_task(path("block_loop"), 1000, timeout=2, task_name="blocks")
        wait_until(FailedAttempt.objects.exists, timeout=30, what="it is charged")
        wait_until(lambda: all(map(fetch, good)), timeout=20, what="the others have ended")
        assert fetch(in_thread).attempt_count == 1
    assert read_notes() == [["in a thread"]]
    (attempt,) = FailedAttempt.objects.all()
    assert (attempt.task_id, attempt.outcome) == (bad, "overdue")
    assert output.read_text().count("'blocks' has blocked the event loop for 1.") == 1


@selection.slow
@selection.once
def test_overdue__after_another_has_blocked_the_event_loop_for_a_while(cluster: Cluster) -> None:
    with cluster(max_attempts=1):
        hangs = async_task(AWAIT, 1000, timeout=6)
        wait_until_begun(1)
        blocks = async_task(path("block_loop"), 5, timeout=2)
        wait_until(lambda: fetch(hangs), timeout=30, what="it is charged")
    assert fetch(blocks).success
    assert [a.task_id for a in FailedAttempt.objects.all()] == [hangs]
    assert "Task exceeded maximum timeout value (6 seconds)" in fetch(hangs).result


@selection.slow
def test_overdue__what_has_finished_is_settled_first(cluster: Cluster) -> None:
    """Even while the database keeps the worker waiting."""
    with cluster(max_attempts=1):
        bad = async_task(WAIT, 1000, timeout=1)
        good = [async_task(path("note_and_wait"), "good", 4.5) for _ in range(5)]
        wait_until(lambda: len(read_notes()) == 5, what="they run")
        time.sleep(4)
        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("LOCK TABLE django_q_ormq IN ACCESS EXCLUSIVE MODE")
            time.sleep(3)
        wait_until(lambda: fetch(bad), timeout=20, what="it is charged")
    assert len(read_notes()) == 5
    assert all(fetch(task_id).attempt_count == 1 for task_id in good)


@selection.slow_on_postgresql
def test_death__before_the_end_is_on_record(cluster: Cluster) -> None:
    """A thread that the task has left behind may have killed the worker: the task is charged, else it would do so for ever."""
    with cluster():
        task_id = async_task(path("note_and_wait"), "once", 1.0)
        wait_until(read_notes, what="it runs")
        victim = Worker.objects.get().pid
        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("LOCK TABLE django_q_ormq IN ACCESS EXCLUSIVE MODE")
            time.sleep(1.6)
            os.kill(victim, signal.SIGKILL)
        wait_until(functools.partial(fetch, task_id), what="it has run again")
    (attempt,) = FailedAttempt.objects.all()
    assert (attempt.outcome, attempt.error) == ("lost", "The worker was killed before it was on record what it came to.")
    assert fetch(task_id).attempt_count == 2


@selection.slow_on_postgresql
def test_death__of_the_supervisor_makes_no_suspects(cluster: Cluster) -> None:
    with cluster(ends_with=-signal.SIGKILL):
        ids = [async_task(WAIT, 1.5) for _ in range(20)]
        wait_until_begun(20)
        os.kill(Worker.objects.get().supervisor_pid, signal.SIGKILL)
    with cluster():
        all_end()
    assert not any(result(task_id)["is_main"] for task_id in ids), "none of them had to run alone"
    assert not FailedAttempt.objects.exists()


# Alone.


@selection.slow_on_postgresql
def test_alone__in_the_main_thread_of_another_process(cluster: Cluster) -> None:
    configured = path("wait_configured_alone")
    with cluster(alone=[configured]):
        ids = [async_task(ALONE, 0.3), async_task(side_by_side_tasks.wait_alone, 0.3), async_task(configured, 0.3)]
        tasks = BackgroundTasks()
        tasks.add_task(side_by_side_tasks.wait, 0.1)
        tasks.add_task(side_by_side_tasks.wait_alone, 0.1)
        in_order = tasks.enqueue()
        beside = async_task(WAIT, 0.1)
        all_end()
    runs = [result(task_id) for task_id in ids] + result(in_order)
    assert all(run["is_main"] for run in runs)
    assert result(beside)["pid"] not in {run["pid"] for run in runs}
    assert not result(beside)["is_main"]
    of_each: dict[int, list[Any]] = {}
    for run in runs:
        of_each.setdefault(run["pid"], []).append(run)
    assert all(most_at_once(runs) == 1 for runs in of_each.values())


@selection.slow_on_postgresql
@selection.once
def test_alone__no_more_than_four_processes(cluster: Cluster) -> None:
    with cluster():
        for _ in range(12):
            async_task(ALONE, 0.5)
        all_end()
    runs = results()
    assert 2 <= len({run["pid"] for run in runs}) <= 4
    assert most_at_once(runs) <= 4


@selection.slow_on_postgresql
def test_alone__its_chain_goes_on_in_the_queue(cluster: Cluster) -> None:
    from django_q.tasks import async_chain  # noqa: PLC0415

    with cluster():
        group = async_chain([(ALONE, (0.1,)), (WAIT, (0.1,))])
        wait_until(lambda: Task.objects.filter(group=group).count() == 2, what="both have run")
    first, second = Task.objects.filter(group=group).order_by("started")
    assert (first.result["is_main"], second.result["is_main"]) == (True, False)


# What escapes.


@selection.slow_on_postgresql
@selection.once
@pytest.mark.parametrize("function", ["exit_politely", "exit_politely_in_coroutine", "cancel_itself"])
def test_exit__is_a_failed_attempt(cluster: Cluster, function: str) -> None:
    with cluster(max_attempts=1):
        beside = [async_task(WAIT, 1), async_task(AWAIT, 1)]
        bad = async_task(path(function))
        all_end()
    assert not fetch(bad).success
    assert all(fetch(task_id).attempt_count == 1 for task_id in beside)
    assert [attempt.task_id for attempt in FailedAttempt.objects.all()] == [bad]


@selection.slow_on_postgresql
@selection.once
def test_exit__of_a_subtask_of_the_event_loop(cluster: Cluster) -> None:
    with cluster():
        beside = async_task(AWAIT, 0.5)
        task_id = async_task(path("exit_in_subtask"))
        all_end()
        after = async_task(AWAIT, 0.1)
        all_end()
    assert result(task_id) == "done"
    assert fetch(beside).success
    assert fetch(after).success


@selection.slow_on_postgresql
@pytest.mark.parametrize("function", ["return_exit", "spoil_with_exit", "cancel_itself_at_its_end", "die_afterwards"])
def test_end__that_goes_wrong_is_an_end(cluster: Cluster, function: str) -> None:
    """Around a task, too, whatever is raised makes an attempt of it, and a death soon after it is charged to it."""
    with cluster(max_attempts=2):
        place = thread_tasks if function == "die_afterwards" else side_by_side_tasks
        bad = async_task(f"{place.__name__}.{function}", *([[]] if function == "spoil_with_exit" else []))
        wait_until(lambda: fetch(bad), what="it has ended")
        good = async_task(WAIT, 0.1)
        wait_until(lambda: fetch(good), what="the queue goes on")
        wait_until(lambda: not Worker.objects.exclude(lease=None).exists(), what="nothing is held any more")
    if function in ("return_exit", "die_afterwards"):
        assert (fetch(bad).success, fetch(bad).attempt_count) == (False, 2)


@selection.slow_on_postgresql
@selection.once
def test_end__of_a_payload_that_holds_no_calls(cluster: Cluster) -> None:
    with cluster(max_attempts=1):
        bad = async_task("durable_queue.run_in_order", 1)
        wait_until(lambda: fetch(bad), what="it has ended")
    assert not fetch(bad).success


@selection.slow_on_postgresql
@selection.once
def test_coroutine__cancelled_by_another_task(cluster: Cluster) -> None:
    with cluster(max_attempts=1):
        bad = [async_task(AWAIT, 30) for _ in range(3)]
        wait_until_begun(3)
        async_task(path("cancel_all"))
        all_end()
    assert not any(fetch(task_id).success for task_id in bad)


@selection.slow
def test_descriptors__that_a_task_closes(cluster: Cluster) -> None:
    """It ends its worker, and no database has got a byte that was meant for a pipe."""
    with cluster(max_attempts=2):
        good = [async_task(WAIT, 1) for _ in range(10)]
        bad = async_task(path("close_descriptors"))
        all_end(timeout=40)
    assert all(fetch(task_id).success for task_id in good)
    assert {attempt.task_id for attempt in FailedAttempt.objects.all()} <= {bad}
    if connection.vendor == "sqlite":
        assert Path(connection.settings_dict["NAME"]).read_bytes().startswith(b"SQLite format 3")


@selection.slow_on_postgresql
@selection.once
def test_fork__that_returns_in_the_child_too(cluster: Cluster) -> None:
    with cluster() as output:
        bad = async_task(path("fork_and_return"))
        ids = [async_task(path("note_and_wait"), f"{number}", 0.01) for number in range(20)]
        all_end()
        assert result(bad) > 0
        assert all(map(fetch, ids))
    assert sorted(int(words[0]) for words in read_notes()) == list(range(20))
    assert "taken for dead" not in output.read_text()


@selection.slow_on_postgresql
def test_write__of_a_forked_child_beside_other_tasks(cluster: Cluster) -> None:
    from notifier_project.settings import NOTIFIER_LOG_FILE  # noqa: PLC0415

    texts = [f"child {number} of {time.time_ns()}\n" for number in range(3)]
    with cluster(max_attempts=2):
        for text in texts:
            async_task(WAIT, 2)
            async_task(path("write_in_child"), text)
        all_end()
    assert not Failure.objects.exists()
    written = NOTIFIER_LOG_FILE.read_text()
    assert [written.count(text) for text in texts] == [1, 1, 1]


# Databases.


@pytest.mark.parametrize("threads", [1, 2])
def test_transaction__that_a_task_leaves_open(cluster: Cluster, threads: int) -> None:
    """It is rolled back, and the task fails with that reason."""
    names = ("leave_transaction_open", "leave_transaction_open_in_coroutine", "leave_autocommit_off", "begin_by_hand")
    with cluster(threads=threads, max_attempts=1):
        for name in names:
            async_task(path(name))
            all_end()
        async_task(path("commit_without_autocommit"))
        all_end()
        for _ in range(4):
            async_task(path("hold_write_lock"), 0.0, "written")
            async_task(path("query_in_coroutine"), 0.0)
            all_end()
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM mark")
        assert [name for (name,) in cursor.fetchall()] == ["committed"] + ["written"] * 4
    assert {failure.func for failure in Failure.objects.all()} == set(map(path, names))
    assert all("left a database transaction open" in failure.result for failure in Failure.objects.all())


@selection.on_sqlite
def test_write_lock__tasks_wait_for_it_and_are_named(cluster: Cluster) -> None:
    with cluster(max_attempts=1) as output:
        with transaction.atomic():
            first = async_task(path("hold_write_lock"), 5, "first", task_name="holds it for long")
            second = async_task(path("hold_write_lock"), 0, "second")
        wait_until(lambda: fetch(second), timeout=20, what="it has written")
        assert fetch(first).success
        assert fetch(second).success
    assert output.read_text().count("'holds it for long' has held SQLite's write lock for ") == 1


@selection.on_postgresql
def test_connections__of_threads_that_tasks_start(cluster: Cluster) -> None:
    """They are not taken from the worker's pool, and don't use it up."""
    with cluster(connections=2, max_attempts=1):
        for _ in range(6):
            async_task(path("query_in_threads"))
        all_end()
        after = async_task(path("query"), 0)
        wait_until(functools.partial(fetch, after), what="the pool still has connections")
    assert not Failure.objects.exists()


def test_coroutines__more_of_them_query_than_there_are_threads(cluster: Cluster) -> None:
    with cluster(threads=2, timeout=4):
        for _ in range(40):
            async_task(path("query_and_wait"), 0.5)
        all_end()
    assert not FailedAttempt.objects.exists()


@selection.on_postgresql
def test_connections__are_bounded(cluster: Cluster) -> None:
    # The server's own processes come and go: autovacuum, parallel workers.
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    with connection.cursor() as cursor:
        cursor.execute(count)
        before = cursor.fetchone()[0]
        with cluster(connections=3):
            for _ in range(20):
                async_task(path("query"), 0.2)
                async_task(path("query_in_coroutine"), 0.2)
            most = 0
            while OrmQ.objects.exists():
                cursor.execute(count)
                most = max(most, cursor.fetchone()[0] - before)
                time.sleep(0.05)
        assert 3 <= most <= 3 + 5, "those of the tasks, of the queue, and four of the upkeep"
    assert Success.objects.count() == 40


@selection.on_postgresql
def test_connections__are_not_asked_whether_they_live(cluster: Cluster) -> None:
    """`CONN_HEALTH_CHECKS` is on, for the admin. The queue's connection was used a moment ago: a task pays no `SELECT 1`."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE \"{connection.settings_dict['NAME']}\" SET log_statement = 'all'")
    try:
        with cluster(threads=1):
            async_task(WAIT, 0)
            all_end()
            before = environment.server_log().count("statement: SELECT 1\n")
            for _ in range(50):
                async_task(WAIT, 0)
            all_end()
            assert "statement: " in environment.server_log()
            assert environment.server_log().count("statement: SELECT 1\n") == before
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{connection.settings_dict["NAME"]}" RESET log_statement')


@selection.once
def test_coroutines__one_slow_query_stalls_no_other(cluster: Cluster) -> None:
    with cluster():
        async_task(AWAIT, 0)
        all_end()
        started = time.time()
        slow = async_task(path("query_in_coroutine"), 3)
        quick = [async_task(path("query_in_coroutine"), 0.01) for _ in range(100)]
        all_end()
    assert max(result(task_id) for task_id in quick) - started < 2.8
    assert result(slow) - started >= 3


# The end.


@selection.slow
@selection.once
def test_retire__hints_are_for_the_successor(cluster: Cluster) -> None:
    with cluster():
        first = Worker.objects.get()
        for _ in range(3):
            async_task(WAIT, 6)
        wait_until_begun(3)
        os.kill(first.supervisor_pid, signal.SIGHUP)
        wait_until(lambda: Worker.objects.count() == 2, what="a successor works")
        time.sleep(1)
        waits = []
        for _ in range(10):
            started = time.monotonic()
            task_id = async_task("math.copysign", 1, -1)
            wait_until(functools.partial(fetch, task_id), what="it has run")
            waits.append(time.monotonic() - started)
        assert sorted(waits)[5] < 0.15
        assert Worker.objects.filter(pk=first.pk).exists(), "the first one still has its tasks in hand"


def test_stop__finishes_what_is_in_hand(cluster: Cluster) -> None:
    with cluster():
        for _ in range(10):
            async_task(WAIT, 1.5)
            async_task(AWAIT, 1.5)
        wait_until_begun(20)
    assert Success.objects.count() == 20
    assert not FailedAttempt.objects.exists()


@selection.slow_on_postgresql
@selection.once
def test_recycle__the_successor_starts_at_once(cluster: Cluster) -> None:
    with cluster(recycle=5):
        slow = async_task(WAIT, 3)
        for _ in range(20):
            async_task("math.copysign", 1, -1)
        wait_until(lambda: Success.objects.count() == 20, timeout=2.5, what="successors run the rest beside the slow one")
        all_end()
    assert fetch(slow).attempt_count == 1
    assert not FailedAttempt.objects.exists()


@selection.slow_on_postgresql
@selection.once
@pytest.mark.parametrize("how", ["stop", "recycle"])
def test_hook__in_hand_is_finished(cluster: Cluster, how: str) -> None:
    with cluster() as output:
        async_task("math.copysign", 1, -1, hook=path("slow_hook"))
        wait_until(read_notes, what="the hook has begun")
        if how == "recycle":
            os.kill(Worker.objects.get().supervisor_pid, signal.SIGHUP)
            wait_until(lambda: len(read_notes()) == 2, what="the hook has ended")
    assert [words[0] for words in read_notes()] == ["hook begins", "hook ends"]
    assert "Traceback" not in output.read_text()


@selection.slow_on_postgresql
@selection.once
def test_hook__that_goes_wrong_costs_no_other(cluster: Cluster) -> None:
    with cluster(timeout=4):
        for number in range(40):
            hook = {5: path("exiting_hook"), 6: path("hanging_hook")}.get(number, path("quick_hook"))
            async_task(WAIT, 0.3, hook=hook)
        wait_until(lambda: [words[0] for words in read_notes()].count("quick hook") == 38, what="all others are called")


@selection.once
def test_load__is_shared_equally(cluster: Cluster) -> None:
    """Also when one worker learns a moment sooner than the other that the tasks wait."""
    with cluster(workers=2):
        wait_until(lambda: Worker.objects.count() == 2, what="both work")
        packaging.broker().enqueue_all([signing.dumps(new_task(WAIT, (2,), {}, name="")) for _ in range(40)])
        all_end()
    pids = [run["pid"] for run in results()]
    assert min(pids.count(pid) for pid in set(pids)) >= 12  # 20 on a quiet machine; none for one of them without sharing
    assert len(set(pids)) == 2


@selection.slow_on_postgresql
@selection.once
@pytest.mark.parametrize("at_once", [False, True])
def test_load__is_shared(cluster: Cluster, at_once: bool) -> None:
    """Whether tasks come one by one, or as a batch to workers that have seen nothing but quick ones."""
    with cluster(workers=2):
        wait_until(lambda: Worker.objects.count() == 2, what="both work")
        packaging.broker().enqueue_all([signing.dumps(new_task("math.copysign", (1, -1), {}, name="")) for _ in range(1000)])
        all_end()
        tasks = [signing.dumps(new_task(WAIT, (2,), {}, name="")) for _ in range(40)]
        if at_once:
            packaging.broker().enqueue_all(tasks)
        else:
            for task in tasks:
                packaging.broker().enqueue(task)
                time.sleep(0.01)
        all_end()
    pids = [run["pid"] for run in results() if isinstance(run, dict)]
    assert len(set(pids)) == 2
    assert min(pids.count(pid) for pid in set(pids)) >= 10


# The database forgets.


def test_claim__that_a_crash_of_the_server_has_undone(cluster: Cluster) -> None:
    with cluster():
        ids = [async_task(path("note_and_wait"), f"task {number}", 1.0) for number in range(5)]
        wait_until(lambda: len(read_notes()) == 5, what="they are in hand")
        # As PostgreSQL does: a claim that it has told us of need not be on its disk yet (`Table.let_commit_be_lost`).
        assert OrmQ.objects.update(lock=timezone.now()) == 5
        later = [async_task(WAIT, 0.1) for _ in range(5)]
        all_end()
        later.append(async_task(WAIT, 0.1))
        all_end(timeout=5.0)
    assert {task.pk for task in Success.objects.all()} == {*ids, *later}
    assert len(read_notes()) == 5, "the worker still had them in hand, and ran none of them again"
    assert not FailedAttempt.objects.exists()
