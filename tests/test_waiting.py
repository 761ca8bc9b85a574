"""Waiting for tasks, groups, chains and iterations ends when they have ended: with their results, or once none can come."""

import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import django_q.tasks
import pytest
from django.db import connections, transaction
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.models import OrmQ, Task
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
    result,
    result_group,
)

from durable_queue import replacements
from durable_queue.models import Worker
from durable_queue.store.broker import Broker
from durable_queue.store.leases import Settlement
from durable_queue.task import signing
from durable_queue.task.identifiers import new_task_id
from durable_queue.task.originals import original
from durable_queue.waiting import database, ends, looks, queued_here
from durable_queue.waiting.database import fragments
from durable_queue.work.follow_ups import follow_up
from durable_queue.work.outcomes import read
from tests.support import selection
from tests.support.clusters import Cluster
from tests.support.processes import PROJECT
from tests.support.queue_rows import worker as stored_worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(30)]

ADD, FAIL, NOTHING = "tests.support.promised_tasks.add", "tests.support.promised_tasks.fail", "builtins.print"
UNKNOWN = "unheard-of"


@pytest.fixture
def worker() -> Worker:
    """A worker, as this process might be one."""
    return stored_worker("w")


Run = Callable[..., None]


def settle(worker: Worker, queue: str | None = None, value: object = "done", *, success: bool = True, most: int = 128) -> None:
    """Settle what is due as a worker would: each with this result, or as a last attempt that failed."""
    broker = Broker(queue, follow_up=follow_up)
    rows = broker.settle_and_claim(worker, claim=most).rows
    now = timezone.now()
    ended = {"started": now, "stopped": now, "success": success, "result": value}
    broker.settle_and_claim(worker, [Settlement(row, {**read(row), **ended}) for row in rows])


@pytest.fixture
def run(worker: Worker) -> Run:
    """The same in the queue of this project."""
    return partial(settle, worker, None)


@contextmanager
def soon(call: Callable[[], object], seconds: float = 0.1) -> Iterator[None]:
    """Another thread calls something after a while."""

    def wait_and_call() -> None:
        time.sleep(seconds)
        try:
            call()
        finally:
            connections.close_all()

    thread = threading.Thread(target=wait_and_call)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has queued what this one waits for."""
    for name in ("_tasks", "_names", "_groups"):
        monkeypatch.setattr(queued_here, name, OrderedDict())
    monkeypatch.setattr(queued_here, "_note", lambda *_, **__: None)


# With real workers.


def test_wait__for_everything_that_ends(cluster: Cluster) -> None:
    with cluster(max_attempts=1):
        for cached in (False, True):
            assert result(async_task(NOTHING, cached=cached), wait=-1, cached=cached) is None
            assert fetch(async_task(NOTHING, cached=cached), wait=-1, cached=cached).success
            assert "as always" in result(async_task(FAIL, cached=cached), wait=-1, cached=cached)
            assert result(async_task(ADD, 1, save=False), wait=-1, cached=cached) is None
            assert fetch(async_task(ADD, 1, cached=not cached), wait=-1, cached=cached) is None
            for failing, expected in ((False, [0, 1, 2]), (True, [0])):
                chain = Chain(cached=cached)
                chain.append(ADD, 0)
                chain.append(FAIL if failing else ADD, *() if failing else (1,))
                chain.append(ADD, 2)
                chain.run()
                assert sorted(chain.result(wait=-1)) == expected
                assert len(chain.fetch(wait=-1)) == len(expected) + failing
            iteration = Iter(ADD, [1, 2, 3], cached=cached)
            iteration.run()
            assert sorted(iteration.result(wait=-1)) == [1, 2, 3]
            task = AsyncTask(ADD, 4, cached=cached, group=uuid4().hex)
            task.run()
            assert (task.result(wait=-1), task.fetch(wait=-1).result, list(task.result_group(wait=-1))) == (4, 4, [4])
        unsaved = Chain()
        for number in range(3):
            unsaved.append(ADD, number, save=False)
        unsaved.run()
        assert unsaved.result(wait=-1) is None
        for number in range(3):
            async_task(ADD, number, group="unsaved", save=False)
        assert result_group("unsaved", count=3, wait=-1) is None


# Tasks.


@pytest.mark.parametrize("cached", [False, True], ids=["history", "cache"])
def test_task__without_a_result(run: Run, cached: bool) -> None:
    task_id = async_task(NOTHING, task_name="says nothing", cached=cached)
    run(None)
    assert result(task_id, wait=-1, cached=cached) is result(UUID(task_id), wait=-1, cached=cached) is None
    assert fetch(task_id, wait=-1, cached=cached).id == task_id
    if not cached:
        assert (result("says nothing", wait=-1), fetch("says nothing", wait=-1).id) == (None, task_id)


@pytest.mark.parametrize("options", [{"save": False}, {"cached": True}], ids=["not saved", "cached"])
@pytest.mark.parametrize("cached", [False, True], ids=["history", "cache"])
@pytest.mark.parametrize("is_ours", [False, True], ids=["seen", "queued here"])
def test_task__that_ends_and_is_not_kept(
    run: Run, request: pytest.FixtureRequest, options: dict[str, Any], cached: bool, is_ours: bool
) -> None:
    if not is_ours:
        request.getfixturevalue("elsewhere")
    task_id = async_task(ADD, 1, task_name="unkept", **options)
    expected = "done" if cached and "cached" in options else None
    with soon(run):
        assert result(task_id, wait=-1, cached=cached) == expected
    if is_ours:
        assert result(task_id, wait=-1, cached=cached) == expected  # it has ended before anybody looks
        assert result("unkept", wait=-1) is None


def test_task__kept_elsewhere_than_one_looks(run: Run) -> None:
    task_id = async_task(ADD, 1)
    with soon(run):
        assert fetch(task_id, wait=-1, cached=True) is None
    assert result(task_id, wait=-1, cached=True) is None


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("cached", [False, True], ids=["history", "cache"])
def test_task__that_is_deleted(cached: bool) -> None:
    task_id = async_task(ADD, 1, cached=cached)
    with soon(OrmQ.objects.all().delete):
        assert result(task_id, wait=-1, cached=cached) is None


@pytest.mark.parametrize("cached", [False, True], ids=["history", "cache"])
def test_task__never_seen_may_still_come(run: Run, cached: bool) -> None:
    began = time.monotonic()
    assert result(new_task_id(), wait=400, cached=cached) is fetch(UNKNOWN, wait=100, cached=cached) is None
    assert time.monotonic() - began >= 0.5
    task_id = new_task_id()
    payload = signing.dumps({"id": task_id, "name": "late", "func": ADD, "args": (), "kwargs": {}, "cached": cached})

    def queue_and_run() -> None:
        Broker().enqueue(payload)
        run()

    with soon(queue_and_run):
        assert result(task_id, wait=-1, cached=cached) == "done"


def test_task__that_is_retried_has_not_ended() -> None:
    task_id = async_task(ADD, 1)
    OrmQ.objects.update(lock=timezone.now() + timedelta(hours=1))
    began = time.monotonic()
    assert result(task_id, wait=300) is result(task_id, wait=100, cached=True) is None
    assert time.monotonic() - began >= 0.4


def test_task__known_to_be_queued_once_that_is_committed() -> None:
    with transaction.atomic():
        task_id = async_task(ADD, 1)
        assert not queued_here.has_queued(task_id)
    assert queued_here.has_queued(task_id)
    with transaction.atomic():
        task_id = async_task(ADD, 1)
        transaction.set_rollback(True)
    assert not queued_here.has_queued(task_id)


@selection.on_sqlite
def test_transaction__that_sees_the_same_for_ever() -> None:
    task_id = async_task(ADD, 1)
    with transaction.atomic():
        assert result(task_id, wait=-1) is result_group("one", count=2, wait=-1) is None


@pytest.mark.parametrize("cached", [False, True], ids=["history", "cache"])
def test_transaction__in_which_nothing_can_run(cached: bool) -> None:
    group = uuid4().hex
    with transaction.atomic():
        task_id = async_task(ADD, 1, task_name="uncommitted", group=group, cached=cached)
        assert result(task_id, wait=-1, cached=cached) is fetch("uncommitted", wait=-1, cached=cached) is None
        assert result_group(group, wait=-1, cached=cached) is fetch_group(group, count=1, cached=cached) is None
        iteration, chain = Iter(ADD, [1, 2], cached=cached), Chain([(ADD, (1,)), (ADD, (2,))], cached=cached)
        iteration.run()
        chain.run()
        assert iteration.result(wait=-1) is chain.result() is None


def test_cached__in_another_queue(worker: Worker) -> None:
    iteration, chain = (
        Iter(ADD, [1, 2], broker=get_broker("second"), cached=True),
        Chain(broker=get_broker("second"), cached=True),
    )
    chain.append(ADD, 1)
    task = AsyncTask(ADD, 1, cluster="second", cached=True, group=uuid4().hex)
    for started in (iteration, chain, task):
        started.run()
    settle(worker, "second")
    assert iteration.result(wait=-1) == iteration.fetch(wait=-1).result == ["done", "done"]
    assert chain.result(wait=-1) == [each.result for each in chain.fetch(wait=-1)] == ["done"]
    assert task.result(wait=-1) == task.fetch(wait=-1).result == "done"
    assert task.result_group(wait=-1) == [each.result for each in task.fetch_group(wait=-1)] == ["done"]


# Groups.


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("cached", [False, True], ids=["history", "cache"])
def test_group__of_more_than_were_awaited(run: Run, cached: bool) -> None:
    group = uuid4().hex
    for number in range(3):
        async_task(ADD, number, group=group, cached=cached)
    run()
    for wait in (-1, 0, 20_000):
        assert list(result_group(group, count=2, wait=wait, cached=cached)) == ["done"] * 3
        assert len(fetch_group(group, count=2, wait=wait, cached=cached)) == 3


@pytest.mark.parametrize("cached", [False, True], ids=["history", "cache"])
def test_group__of_which_all_have_failed(run: Run, cached: bool) -> None:
    group = uuid4().hex
    for number in range(2):
        async_task(ADD, number, group=group, cached=cached)
    run(success=False)
    assert not result_group(group, count=2, wait=-1, cached=cached)
    assert not result_group(group, wait=-1, cached=cached)
    assert len(fetch_group(group, count=2, wait=-1, cached=cached)) == 2


@pytest.mark.parametrize("cached", [False, True], ids=["history", "cache"])
def test_group__when_its_time_is_up(run: Run, cached: bool) -> None:
    group = uuid4().hex
    async_task(ADD, 1, group=group, cached=cached)
    run()
    began = time.monotonic()
    assert list(result_group(group, count=2, wait=300, cached=cached)) == ["done"]  # another may be about to be queued
    assert time.monotonic() - began >= 0.3
    assert result_group(UNKNOWN, wait=50, cached=cached) is fetch_group(UNKNOWN, wait=50, count=1, cached=cached) is None


@pytest.mark.parametrize("wait", [-1, 0])
def test_group__that_is_not_kept(run: Run, wait: int) -> None:
    group = uuid4().hex
    for number in range(3):
        async_task(ADD, number, group=group, save=number == 0)
    with soon(lambda: run(most=2), 0.05), soon(run, 0.2):
        assert list(result_group(group, count=3, wait=wait)) == ["done"]


@pytest.mark.parametrize("group", [7, 2.5, ("a", 1), UUID(int=3), "g" * 300], ids=["number", "float", "tuple", "UUID", "long"])
def test_group__whose_name_can_not_be_searched_for(run: Run, group: Any) -> None:
    for number in range(3):
        async_task(ADD, number, group=group, save=number == 0)
    with soon(lambda: run(most=2), 0.05), soon(run, 0.2):
        began = time.monotonic()
        assert list(result_group(group, count=3, wait=-1)) == ["done"]
        assert time.monotonic() - began >= 0.2
    delete_group(group)
    assert result_group(group, wait=50) is None


def test_group__whose_name_can_not_be_searched_for_of_a_chain() -> None:
    async_chain([(ADD, (1,)), (ADD, (2,))], group=7)
    OrmQ.objects.all().delete()
    chain = Chain(group=7)
    chain.append(ADD, 1)
    chain.run()
    with pytest.raises(LookupError, match="name groups by text"):
        chain.result(wait=-1)


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process remembers one thing of each kind, and nobody is patient."""
    for name in ("_tasks", "_names", "_groups"):
        monkeypatch.setattr(queued_here, name, OrderedDict())
    monkeypatch.setattr(queued_here, "_forgotten", {})
    monkeypatch.setattr(queued_here, "MOST", 1)
    monkeypatch.setattr(ends, "PATIENCE", 0.3)


@pytest.mark.usefixtures("short_memory")
def test_wait__for_what_this_process_has_forgotten(run: Run) -> None:
    first = async_task(NOTHING, task_name="first", group="one", save=False)
    run()
    second = async_task(NOTHING, task_name="second", group="two", save=False)
    assert result(first, wait=-1) is None
    assert result("first", wait=-1) is None
    assert result_group("one", wait=-1) is None
    with soon(run, 0.5):
        began = time.monotonic()
        assert result(second, wait=-1) is None
        assert time.monotonic() - began > 0.4, "it is in the queue"


@pytest.mark.usefixtures("short_memory")
def test_group__that_is_forgotten_and_can_not_be_searched_for() -> None:
    async_task(NOTHING, group=7)
    async_task(NOTHING, group="two")
    with pytest.raises(LookupError, match="name groups by text"):
        result_group(7, wait=-1)


def test_group__whose_task_is_deleted(run: Run) -> None:
    group = uuid4().hex
    for number in range(2):
        async_task(ADD, number, group=group)
    run(most=1)
    with soon(OrmQ.objects.all().delete):
        assert list(result_group(group, count=2, wait=-1)) == ["done"]


def test_group__in_the_cache_some_of_which_is_gone(run: Run) -> None:
    group = uuid4().hex
    ids = [async_task(ADD, number, group=group, cached=True) for number in range(3)]
    run()
    delete_cached(ids[0])
    assert result_group(group, count=3, wait=-1, cached=True) == ["done"] * 2
    assert {task.id for task in fetch_group(group, cached=True)} == set(ids[1:])
    assert (count_group(group, cached=True), count_group(group, cached=True, failures=True)) == (2, 0)


def test_group__whose_name_is_used_again(run: Run) -> None:
    group = uuid4().hex
    async_task(ADD, 1, group=group)
    run()
    delete_group(group, tasks=True)
    began = time.monotonic()
    assert result_group(group, count=1, wait=200) is None  # another thread may be about to queue
    assert time.monotonic() - began >= 0.2


def test_names__as_the_history_keeps_them(run: Run) -> None:
    name = "a\0b" * 100
    async_task(ADD, 1, task_name=name, group=name)
    run()
    assert (result(name), list(result_group(name)), count_group(name)) == ("done", ["done"], 1)


def test_group__unknown_is_deleted() -> None:
    assert delete_group(UNKNOWN, cached=True) is None
    assert (delete_group(UNKNOWN), delete_group(UNKNOWN, tasks=True)[0]) == (0, 0)
    assert (count_group(UNKNOWN), count_group(UNKNOWN, cached=True)) == (0, None)


# Chains.


@pytest.fixture(params=[False, True], ids=["history", "cache"])
def chain(request: pytest.FixtureRequest) -> Chain:
    """A chain of three, queued."""
    chain = Chain(cached=request.param)
    for number in range(3):
        chain.append(ADD, number)
    chain.run()
    return chain


@pytest.mark.parametrize("wait", [-1, 0, 20_000])
def test_chain__that_fails(run: Run, chain: Chain, wait: int) -> None:
    run()
    run("it failed", success=False)
    assert list(chain.result(wait)) == ["done"]
    assert [task.success for task in sorted(chain.fetch(wait=wait), key=lambda task: task.stopped)] == [True, False]
    assert result_group(chain.group, count=3, wait=wait, cached=chain.cached)
    assert OrmQ.objects.count() == 0


def test_chain__whose_first_task_fails(run: Run, chain: Chain) -> None:
    run(success=False)
    assert not chain.result(-1)


def test_chain__goes_on(run: Run, chain: Chain) -> None:
    run()
    assert list(chain.result(wait=200)) == ["done"]
    with soon(run, 0.05), soon(run, 0.2):
        assert list(chain.result(wait=-1)) == ["done"] * 3


def test_chain__whose_task_is_deleted(run: Run, chain: Chain) -> None:
    run()
    with soon(OrmQ.objects.all().delete):
        assert list(chain.result()) == ["done"]


@pytest.mark.usefixtures("elsewhere")
def test_chain__rolled_back() -> None:
    chain = Chain([(ADD, (1,))])
    with transaction.atomic():
        chain.run()
        transaction.set_rollback(True)
    began = time.monotonic()
    assert chain.result(300) is None  # it was never seen: another thread may be about to commit it
    assert time.monotonic() - began >= 0.3


def test_chain__of_which_nothing_is_kept(run: Run) -> None:
    group = async_chain([(ADD, (1,), {"save": False}), (ADD, (2,), {"save": False})])
    run()
    run()
    assert result_group(group, count=2, wait=-1) is fetch_group(group, count=2) is None


# Iterations.


@pytest.mark.parametrize("cached", [False, True], ids=["history", "cache"])
def test_iteration__of_nothing(cached: bool) -> None:
    iteration = Iter(ADD, cached=cached)
    iteration.run()
    assert iteration.result(wait=-1) == iteration.result() == []
    assert (iteration.fetch(wait=-1).result, iteration.fetch().success) == ([], True)
    assert OrmQ.objects.count() == 0
    assert Task.objects.count() == (0 if cached else 1)
    assert result(async_iter(ADD, (), cached=cached, task_name="none"), wait=-1, cached=cached) == []


@pytest.mark.parametrize("cached", [False, True], ids=["history", "cache"])
def test_iteration__whose_part_is_deleted(run: Run, cached: bool) -> None:
    iteration = Iter(ADD, [1, 2, 3], cached=cached)
    iteration.run()
    run(most=2)
    with soon(OrmQ.objects.all().delete):
        assert iteration.result(wait=-1) is None


# What stands in the place of django-q2's.


def test_functions__take_what_django_qs_take() -> None:
    ours = {name: getattr(django_q.tasks, name) for name in replacements.FUNCTIONS}
    assert {name: function.__module__ for name, function in ours.items()} == replacements.FUNCTIONS
    for name, function in ours.items():
        assert _parameters(function) == _parameters(original(name)), name
    for owner, _, names in replacements.METHODS:
        assert {getattr(django_q.tasks, owner).__dict__[name].__module__ for name in names} == {"durable_queue.waiting.methods"}


def _parameters(function: Callable[..., Any]) -> list[tuple[str, object]]:
    return [(parameter.name, parameter.default) for parameter in signature(function).parameters.values()]


@selection.once
def test_functions__of_who_imported_them_first(tmp_path: Path) -> None:
    early = tmp_path / "early"
    early.mkdir()
    (early / "__init__.py").touch()
    (early / "models.py").write_text("from django_q.tasks import Chain, fetch, result\n")
    (tmp_path / "with_early.py").write_text(
        "from notifier_project.settings import *\n"
        "INSTALLED_APPS = ['early', 'django_q', *[app for app in INSTALLED_APPS if app != 'django_q']]\n"
    )
    program = (
        "import django, importlib; django.setup(); import early.models as early, django_q.tasks as tasks; "
        "assert early.result is tasks.result and early.fetch is tasks.fetch; "
        "print(early.result.__module__, early.Chain.result.__module__, importlib.reload(tasks).result.__module__)"
    )
    path = os.pathsep.join([str(tmp_path), str(PROJECT)])
    env = os.environ | {"PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "with_early"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False, timeout=30)
    home = "durable_queue.waiting"
    assert done.stdout.split() == [f"{home}.tasks", f"{home}.methods", f"{home}.tasks"], done.stderr


# How it looks.


@selection.once
def test_looks__from_10_to_200_ms() -> None:
    moments = [time.monotonic() for _ in looks.looks(1000)]
    pauses = [later - sooner for sooner, later in pairwise(moments)]
    assert min(pauses[:-1]) >= 0.01  # the last one is what is left
    assert 1.0 <= moments[-1] - moments[0] < 2.0
    assert len(moments) < 45
    assert sum(moment - moments[0] < 0.1 for moment in moments) >= 4  # what ends soon is seen soon
    assert len(list(looks.looks(0))) == 1


@selection.once
def test_search__finds_a_group_wherever_it_stands() -> None:
    for group in ("", "g", "alice", "\u00fc\u20ac\U0001f600", uuid4().hex, "x" * 255):
        for before in range(6):
            task = {"id": new_task_id(), "name": "n" * before, "func": ADD, "args": (), "kwargs": {}, "group": group}
            payload = signing.dumps(task | {"chain": [(ADD, (1,))]})
            assert _is_in(payload, group)
            assert not _is_in(payload, uuid4().hex)


def _is_in(payload: str, group: str) -> bool:
    name = group.encode()
    return any(fragment in payload for fragment in fragments(b"\x8c" + bytes([len(name)]) + name + b"\x94"))


def test_search__is_left_where_it_would_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    group = uuid4().hex
    async_task(ADD, 1)
    async_task(ADD, 2)
    assert not database.may_have_queued(group)
    monkeypatch.setattr(database, "MOST", 1)
    assert database.may_have_queued(group)
    assert database.may_have_queued("x" * 256)
