"""What is stored can be loaded, shown and found: results, error texts, and functions that are missing."""

import pickle
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from django_q.models import Failure, OrmQ, Success, Task
from django_q.tasks import async_task, result

from durable_queue import BackgroundTasks
from durable_queue.models import DeadLetter, FailedAttempt
from durable_queue.task import limits
from durable_queue.task.calls import find, path_of, resolve
from durable_queue.verbs import Came, retry
from durable_queue.work import ending, results, titles
from tests.support import selection, stored_tasks
from tests.support.admin_site import act, page
from tests.support.cluster_tasks import RaisesWhenUnpickled
from tests.support.here import run_due

pytestmark = pytest.mark.django_db(transaction=True)

ODD = "tests.support.stored_tasks."


# Results.


@pytest.mark.parametrize("name", ["error", "deep", "text", "exits"])
def test_result__that_can_not_be_loaded_is_a_failed_attempt(tmp_path: Path, name: str) -> None:
    task_id, good = async_task(f"{ODD}give", name), async_task("math.hypot", 3, 4)
    run_due(tmp_path)
    attempt = FailedAttempt.objects.get()
    assert (attempt.task_id, attempt.outcome, result(task_id)) == (task_id, "failed", None)
    assert attempt.error.startswith("Its result can be pickled, but not loaded again: ")
    assert OrmQ.objects.count() == 1, "it is tried again"
    assert result(good) == 5.0


def test_result__that_can_not_be_loaded_at_the_last_attempt(tmp_path: Path) -> None:
    task_id = async_task(f"{ODD}give", "error", ack_failure=True)
    run_due(tmp_path)
    assert "can be pickled, but not loaded again" in result(task_id)


def test_result__of_one_call_of_several(tmp_path: Path) -> None:
    tasks = BackgroundTasks()
    tasks.add_task(stored_tasks.give, "error")
    tasks.add_task(stored_tasks.succeed_once)
    tasks.enqueue()
    run_due(tmp_path)
    assert "not loaded again" in FailedAttempt.objects.get().error
    assert not Success.objects.exists()


def test_result__that_takes_for_ever_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "CHECK_LIMIT", 0.2)
    limits.MainThreadLimit().join()
    try:
        async_task(f"{ODD}give", "sleeps")
        run_due(tmp_path)
    finally:
        limits._own.limit = None
    assert "exceeded maximum timeout value" in FailedAttempt.objects.get().error


@selection.once
def test_result__a_large_one_is_never_in_memory_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "LARGEST", 1 << 16)
    many = {"letters": [stored_tasks.Letter(str(number) * 5_000) for number in range(100, 400)], "number": 1}
    tracemalloc.start()
    try:
        copy = pickle.loads(pickle.dumps(many))  # noqa: S301
        whole = tracemalloc.get_traced_memory()[1]
        del copy
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        results.check(many)
        assert tracemalloc.get_traced_memory()[1] - before < whole / 5
    finally:
        tracemalloc.stop()


@selection.once
@pytest.mark.parametrize("place", ["at its end", "in a group", "as a key", "in itself"])
def test_result__a_bad_part_of_a_large_one_is_found(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(results, "LARGEST", 1 << 12)
    many: list[Any] = list(stored_tasks.days(5_000))
    bad = stored_tasks.NeedsTwo("one", "two")
    match place:
        case "at its end":
            many.append(bad)
        case "in a group":
            many[2_500] = [stored_tasks.days(3_000), bad]
        case "as a key":
            many = [{bad: stored_tasks.days(2_000)}]
        case "in itself":
            many += [many, bad]
    with pytest.raises(results.UnloadableError):
        results.check(many)
    results.check(stored_tasks.days(5_000))


def test_result__half_a_character_is_kept_as_it_is(tmp_path: Path, admin_client: Client) -> None:
    task_id = async_task(f"{ODD}give_half")
    run_due(tmp_path)
    assert result(task_id) == stored_tasks.UNSPEAKABLE
    assert "half a character" in page(admin_client, "django_q_success_change", task_id)


# Texts.


def test_error__that_no_page_could_show(tmp_path: Path, admin_client: Client) -> None:
    task_id = async_task(f"{ODD}fail_unspeakably", task_name=stored_tasks.UNSPEAKABLE, ack_failure=True)
    assert "half a character" in page(admin_client, "django_q_ormq_changelist")
    assert "half a character" in page(admin_client, "django_q_ormq_change", OrmQ.objects.get().pk)
    assert "half a character" in act(admin_client, "django_q_ormq", "delete_selected", [OrmQ.objects.get().pk])
    run_due(tmp_path)
    error = Failure.objects.get().result
    assert error.startswith("a zero \ufffd and half a character ?")
    error.encode()
    assert "half a character" in page(admin_client, "django_q_failure_changelist")
    assert "half a character" in page(admin_client, "django_q_failure_change", task_id)


def test_names__that_neither_a_title_nor_a_lock_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(titles, "_set", shown.append)
    titles.show_title(stored_tasks.UNSPEAKABLE)
    assert shown[0].isprintable()
    async_task("math.hypot", 3, 4, group=stored_tasks.UNSPEAKABLE, cached=True)
    run_due(tmp_path)
    assert not OrmQ.objects.exists()


def test_error__of_a_row_that_another_program_wrote(admin_client: Client) -> None:
    now = timezone.now()
    Task.objects.create(id="a" * 32, name="old", func="a.b", started=now, stopped=now, success=False, result="\ud800 and \0")
    Task.objects.create(id="b" * 32, name="old", func="a.b", started=now, stopped=now, success=True, result=["\ud800"])
    assert "and" in page(admin_client, "django_q_failure_changelist")
    assert "and" in page(admin_client, "django_q_failure_change", "a" * 32)
    assert "ud800" in page(admin_client, "django_q_success_change", "b" * 32)


def test_error__of_a_payload_that_is_refused(tmp_path: Path) -> None:
    """Its id is known, by which whoever enqueued it looks for it; and its reason is stored, whatever text it has."""
    task_id = async_task("math.hypot", RaisesWhenUnpickled(), task_name="poison", group="bad", hook="a.b")
    run_due(tmp_path)
    assert Failure.objects.values_list("id", "name", "group", "hook").get() == (task_id, "poison", "bad", "a.b")
    assert DeadLetter.objects.get().task_id == FailedAttempt.objects.get().task_id == task_id


# Functions that are missing.


def test_missing__is_retried_alike_in_a_task_of_one_call_and_of_several(tmp_path: Path) -> None:
    for path in ("tests.nowhere.function", f"{ODD}nothing", f"{ODD}LIMIT"):
        async_task(path)
        async_task("durable_queue.run_in_order", (f"{ODD}succeed_once", (), {}), (path, (), {}))
    run_due(tmp_path)
    assert OrmQ.objects.count() == 6
    assert not Failure.objects.exists()
    assert not DeadLetter.objects.exists()
    attempts = list(FailedAttempt.objects.order_by("row"))
    assert {attempt.outcome for attempt in attempts} == {"failed"}
    reasons = [attempt.error.partition(" : Traceback")[0] for attempt in attempts]
    assert reasons[0] == reasons[1] == "There is no function tests.nowhere.function: there is no module tests.nowhere."
    assert reasons[2] == reasons[3]
    assert reasons[2].endswith("the module tests.support.stored_tasks has no attribute nothing.")
    assert reasons[4] == reasons[5]
    assert "is no function, but of <class 'int'>" in reasons[4]


@pytest.fixture
def deployed() -> Iterator[ModuleType]:
    """A module that this process knows."""
    module = sys.modules["just_deployed"] = ModuleType("just_deployed")
    exec("class Order:\n    pass\n\ndef ship(*orders): return len(orders)", module.__dict__)  # noqa: S102
    yield module
    sys.modules.pop("just_deployed", None)


@pytest.mark.parametrize("name", ["ship", "Order"])
@pytest.mark.parametrize("what", ["module", "attribute"])
def test_missing__what_a_payload_names(tmp_path: Path, deployed: ModuleType, name: str, what: str) -> None:
    """The web knows a function, or a class, a minute before the workers do."""
    task_id = async_task(deployed.ship, deployed.Order()) if name == "ship" else async_task("builtins.repr", deployed.Order())
    gone = getattr(deployed, name)
    sys.modules.pop("just_deployed") if what == "module" else delattr(deployed, name)
    run_due(tmp_path)
    attempt = FailedAttempt.objects.get()
    assert (attempt.task_id, attempt.outcome, OrmQ.objects.count()) == (task_id, "failed", 1)
    expected = "there is no module just_deployed" if what == "module" else f"the module just_deployed has no attribute {name}"
    assert attempt.error == f"The payload can't be unpickled: {expected}."
    setattr(deployed, name, gone)
    sys.modules["just_deployed"] = deployed
    run_due(tmp_path)
    assert Success.objects.get().id == task_id


def test_missing__at_the_last_attempt_the_payload_is_kept(tmp_path: Path, deployed: ModuleType) -> None:
    task_id = async_task(deployed.ship, ack_failure=True)
    payload, gone = OrmQ.objects.get().payload, deployed.ship
    del deployed.ship
    run_due(tmp_path)
    assert Failure.objects.get().id == task_id
    assert DeadLetter.objects.get().payload == payload
    deployed.ship = gone  # type: ignore[attr-defined]
    assert retry(task_id, by="alice") is Came.DONE
    run_due(tmp_path)
    assert result(task_id) == 0


@selection.once
@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("nope", "there is no module nope"),
        ("nope.function", "there is no module nope"),
        ("tests.nope", "the module tests has no attribute nope"),
        ("tests.nope.function", "there is no module tests.nope"),
        ("tests.support.stored_tasks.Nope.method", "the module tests.support.stored_tasks has no attribute Nope"),
        ("tests.support.stored_tasks.Money.nope", "tests.support.stored_tasks.Money has no attribute nope"),
        ("", "the path is empty"),
        ("...", "the path is empty"),
    ],
)
def test_resolve__names_what_is_missing(path: str, missing: str) -> None:
    with pytest.raises(LookupError) as error:
        resolve(path)
    assert str(error.value) == f"There is no function {path}: {missing}."


@selection.once
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_dependency", "No module named 'no_such_dependency'"),
        ("from broken_module import function", "cannot import name 'function'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def function(:", "SyntaxError"),
    ],
)
def test_resolve__a_module_that_can_not_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    (tmp_path / "broken_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    async_task("broken_module.function")
    run_due(tmp_path)
    error = FailedAttempt.objects.get().error
    assert error.startswith("problem in broken_module - ")
    assert said in error


@selection.once
def test_resolve__finds_what_it_always_has() -> None:
    assert resolve("len") is len
    assert resolve("builtins.dict.fromkeys")("ab") == {"a": None, "b": None}
    assert find(f"{ODD}LIMIT") == 3
    with pytest.raises(TypeError, match="defined at the top"):
        path_of(lambda: None)
