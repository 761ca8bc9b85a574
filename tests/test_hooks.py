"""Hooks: each is called once for a task that has ended, whatever is kept of the task, and whatever other hooks do."""

import logging
from collections import Counter
from typing import Any

import pytest
from django_q.models import OrmQ, Success, Task
from django_q.tasks import AsyncTask, async_task, fetch

from tests.support import hook_tasks
from tests.support.cluster_tasks import KillsWhenUnpickled
from tests.support.clusters import Cluster, all_end
from tests.support.processes import wait_until
from tests.support.promised_tasks import read_notes

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_notes")]

HOOK = "tests.support.hook_tasks.hook"
ADD, FAIL = "tests.support.promised_tasks.add", "tests.support.promised_tasks.fail"
DIE = "tests.support.hook_tasks.die"


def called() -> list[list[Any]]:
    """What the hooks have noted: name, id, success, result, arguments, group."""
    return [words[1:] for words in read_notes() if words[0] == "hook"]


def names() -> Counter[str]:
    """How often a hook was called for the task with each name."""
    return Counter(words[0] for words in called())


KINDS: dict[str, dict[str, Any]] = {
    "kept": {},
    "not kept": {"save": False},
    "cached": {"cached": True},
    "cached for a minute, in a group": {"cached": 60, "group": "alice"},
    "by a function": {"hook": hook_tasks.hook, "save": False},
    "by a static method": {"hook": "tests.support.hook_tasks.Shop.hook"},
    "by a class method": {"hook": "tests.support.hook_tasks.Shop.of_class", "cached": True},
    "by a bound method": {"hook": hook_tasks.Shop.of_class},
    "that saves it": {"hook": "tests.support.hook_tasks.save_again"},
    "that saves what is not kept": {"hook": "tests.support.hook_tasks.save_again", "save": False},
}


@pytest.mark.parametrize("threads", [1, 40])
def test_hook__whatever_is_kept(cluster: Cluster, threads: int) -> None:
    ids = {name: async_task(ADD, 1, 2, task_name=name, **{"hook": HOOK, **options}) for name, options in KINDS.items()}
    failed = {f"failed, {kind}": KINDS[kind] for kind in ("kept", "not kept", "cached")}
    ids |= {name: async_task(FAIL, task_name=name, hook=HOOK, **options) for name, options in failed.items()}
    ids["unstorable"] = async_task("tests.support.cluster_tasks.return_picky", task_name="unstorable", hook=HOOK, group="bob")
    with cluster(threads=threads, max_attempts=1):
        all_end()
        wait_until(lambda: {words[1] for words in called()} >= set(ids.values()), what="the hooks were called")
    assert {words[1]: words[0] for words in called()}.keys() == set(ids.values())
    assert set(Counter(words[1] for words in called()).values()) == {1}
    good = [words for words in called() if words[0] in KINDS]
    assert {(words[2], words[3], *words[4]) for words in good} == {(True, 3, 1, 2)}
    bad = [words for words in called() if words[0] in failed]
    assert [(words[2], str(words[3])[:9]) for words in bad] == [(False, "as always")] * 3
    assert {words[5] for words in called()} == {None, "alice", "bob"}


BAD = {
    "exits": "tests.support.hook_tasks.leave",
    "raises": "tests.support.hook_tasks.no_hook",
    "hangs": "tests.support.hook_tasks.hang",
    "raises on import": "tests.support.raises_on_import.anything",
    "is nowhere": "nowhere.to_be_found",
    "is no function": "tests.support.hook_tasks.__doc__",
    "is one word": "malformed",
    "is empty": "",
    "is garbage": 12345,
    "is untrue": hook_tasks.Untrue(),
    "is unshowable": hook_tasks.Unshowable(),
    "is half a character": "\ud800.\0",
    "is long": "x." * 10_000,
}


@pytest.mark.parametrize("threads", [1, 40])
def test_hook__that_is_bad_harms_no_other(cluster: Cluster, threads: int) -> None:
    for name, hook in BAD.items():
        async_task(ADD, 1, task_name=name, hook=hook)
        async_task(ADD, 2, task_name=f"after {name}", hook=HOOK, cached=True)
    with cluster(threads=threads, timeout=1) as output:
        all_end()
        wait_until(lambda: sum(name.startswith("after ") for name in names()) == len(BAD), what="the hooks were called")
    assert set(Success.objects.values_list("name", flat=True)) == BAD.keys()
    assert names() == {**{f"after {name}": 1 for name in BAD}, "exits": 1, "raises": 1, "hangs": 1}
    said = output.read_text()
    assert "There is no function nowhere.to_be_found" in said
    assert "exceeded maximum timeout value" in said
    assert "A int is no hook" in said


def test_hook__of_a_lost_task(cluster: Cluster) -> None:
    unread = async_task(ADD, KillsWhenUnpickled(), task_name="unread", hook=HOOK, group="alice")
    lost = {kind: async_task(DIE, kind, task_name=kind, hook=HOOK, **KINDS[kind]) for kind in ("kept", "not kept", "cached")}
    with cluster(threads=1, max_attempts=1):
        wait_until(lambda: len(called()) > len(lost), timeout=30, what="the hooks were called")
        all_end()
    assert names() == dict.fromkeys([*lost, "unread"], 1)
    expected = [[kind, lost[kind], False, "The worker was killed while it ran.", [kind], None] for kind in lost]
    expected.append(["unread", unread, False, "The worker was killed while it unpickled the payload.", [], "alice"])
    assert sorted(called(), key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("hook", ["leave", "kill_worker"])
def test_hook__of_a_lost_task_is_not_called_twice(cluster: Cluster, hook: str) -> None:
    async_task(DIE, task_name="lost", hook=f"tests.support.hook_tasks.{hook}", ack_failure=False)
    with cluster(threads=40, retry_policies={DIE: {"attempts": 1}}):
        wait_until(called, timeout=30, what="the hook was called")
        all_end()
    assert names() == {"lost": 1}
    assert set(Task.objects.values_list("name", "success")) == {("lost", False), ("hook of lost", False)}


SYNC = ("kept", "not kept", "cached", "by a function", "by a static method", "that saves it", "that saves what is not kept")


@pytest.mark.parametrize("kind", SYNC)
def test_hook__of_a_task_in_the_callers_process(kind: str) -> None:
    task_id = async_task(ADD, 1, 2, task_name=kind, sync=True, **{"hook": HOOK, **KINDS[kind]})
    assert called() == [[kind, task_id, True, 3, [1, 2], None]]


def test_hook__in_the_callers_process_that_exits(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("django-q").propagate = True
    with caplog.at_level(logging.ERROR):
        task = AsyncTask(ADD, 1, sync=True, hook="tests.support.hook_tasks.leave", save=False)
        task.run()
        async_task(ADD, 1, sync=True, hook="nowhere.to_be_found")
    assert len(called()) == 1
    assert [record.levelname for record in caplog.records].count("ERROR") == 2


def test_hook__is_not_called_for_a_row_that_is_changed() -> None:
    task_id = async_task(ADD, 1, sync=True, hook=HOOK)
    task = fetch(task_id)
    task.group = "renamed"
    task.save()
    assert len(called()) == 1
    assert OrmQ.objects.count() == 0


def test_hook__of_a_task_that_runs_at_once_within_a_hook() -> None:
    """The row that is saved for it is not one that the outer hook saves."""
    async_task(ADD, 1, 2, task_name="outer", hook="tests.support.hook_tasks.run_another", sync=True)
    assert names() == Counter({"inner": 1})
