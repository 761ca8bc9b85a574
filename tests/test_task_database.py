"""notifications/task_database.py, and the writes of attempts in this process: what is asked of a real database."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from django_q.models import OrmQ, Task
from django_q.tasks import async_task
from pytest_django import Settings

from durable_queue.models import FailedAttempt
from durable_queue.store.broker import Broker
from durable_queue.store.queue_connection import own_connection
from durable_queue.task import running, signing
from durable_queue.task.callers import current_attempt, task_of_caller
from durable_queue.task.identifiers import new_task_id
from durable_queue.task.running import RunningTask, current_task
from notifications.log.journal import TRIM_FROM
from notifications.models import Journal
from notifications.task_database import TaskDatabase
from notifications.tasks import write_log, write_notification

pytestmark = pytest.mark.django_db(transaction=True)

JOURNAL = "0" * 32


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, settings: Settings) -> None:
    """A journal of the test's own, which no other test has trimmed."""
    settings.DATA_DIR = tmp_path / "data"


def in_history(task_id: str, *, success: bool) -> str:
    """A task that has ended."""
    now = timezone.now()
    Task.objects.create(id=task_id, name="a task", func="a.b", started=now, stopped=now, success=success)
    return task_id


def has_ended(task_id: str) -> bool:
    """What the journal is told."""
    return TaskDatabase().ended({bytes.fromhex(task_id)}) == {bytes.fromhex(task_id)}


def test_ended__queued() -> None:
    assert not has_ended(async_task("math.hypot", 3, 4))


def test_ended__queued_and_tried_before() -> None:
    task_id, now = async_task("math.hypot", 3, 4), timezone.now()
    FailedAttempt.objects.create(row=1, task_id=task_id, number=1, outcome="failed", worker="w", started=now, stopped=now)
    assert not has_ended(task_id)


def test_ended__whatever_the_clock_says() -> None:
    """An old task waits, in a row that is younger than others; the clock was set back and forth."""
    old = f"{int((timezone.now() - timedelta(days=2)).timestamp() * 1000):012x}7aaa8aaaaaaaaaaaaaaa"
    async_task("math.hypot", 3, 4)
    payload = Broker.get_connection().get().payload
    assert has_ended(old)
    task = signing.loads(payload)
    OrmQ.objects.create(key="notifier", payload=signing.dumps(task | {"id": old}), lock=timezone.now() + timedelta(days=1))
    assert not has_ended(old)


def test_ended__failed_and_may_be_retried() -> None:
    assert not has_ended(in_history(new_task_id(), success=False))


@pytest.mark.parametrize("success", [True, None])
def test_ended__succeeded_or_gone(success: bool | None) -> None:
    task_id = new_task_id()
    if success:
        in_history(task_id, success=True)
    assert has_ended(task_id)


def test_ended__from_within_a_transaction_that_is_broken() -> None:
    """A task calls from anywhere: it is asked over a connection of its own."""
    task_id = in_history(new_task_id(), success=False)
    with transaction.atomic():
        transaction.set_rollback(True)
        with connection.cursor() as cursor, pytest.raises(DatabaseError):
            cursor.execute("SELECT no_such_function()")
        assert not has_ended(task_id)


def test_ended__history_can_not_be_read() -> None:
    history = Task._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {history} RENAME TO away")
        try:
            with pytest.raises(DatabaseError):
                has_ended(new_task_id())
        finally:
            cursor.execute(f"ALTER TABLE away RENAME TO {history}")


def test_id_for__is_made_once_for_each_journal() -> None:
    database = TaskDatabase()
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(database.id_for(JOURNAL))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 5
    assert len(set(found)) == 1
    assert len(found[0]) == 8
    assert database.id_for("1" * 32) != found[0]


def test_note_trim__never_gives_a_number_twice() -> None:
    database = TaskDatabase()
    assert [database.note_trim(JOURNAL, number) for number in (1, 2, 2, 1, 9)] == [1, 2, 3, 4, 9]


def test_catch_up__one_of_several_learns_it() -> None:
    database = TaskDatabase()
    database.note_trim(JOURNAL, 3)
    assert not database.catch_up(JOURNAL, 3)
    Journal.objects.update(trims=1)  # restored
    assert [database.catch_up(JOURNAL, 3) for _ in range(2)] == [True, False]
    assert Journal.objects.get().trims == 3


def test_own_connection__is_in_no_transaction_and_closed_at_the_end() -> None:
    with transaction.atomic(), own_connection() as own:
        assert own is not connection
        assert not own.in_atomic_block
        own.ensure_connection()
    assert own.connection is None


# The writes of an attempt.


@pytest.fixture
def attempt() -> Iterator[Callable[[str], RunningTask]]:
    """Begin an attempt of a task, as a worker does that has one in hand: the one before has ended."""

    def begin(task_id: str) -> RunningTask:
        end()
        task = RunningTask(task_id)
        running.begin(task)
        return task

    def end() -> None:
        if task := current_attempt():
            running.end(task)

    yield begin
    end()


def test_write_log__a_second_attempt(log_file: Path, attempt: Callable[[str], RunningTask]) -> None:
    """It skips what stands there, and goes on from where the first one stopped."""
    task_id = new_task_id()
    attempt(task_id)
    assert write_log("one\n") is None
    task = attempt(task_id)
    assert write_log("one\n") == "it stood in the log already"
    assert write_log("one\n") is None
    task.begin_call(1, "", None)
    assert write_log("one\n") is None
    assert log_file.read_text() == "one\none\none\n"


def test_write_log__with_a_key(log_file: Path, attempt: Callable[[str], RunningTask]) -> None:
    task_id = new_task_id()
    attempt(task_id)
    assert write_log("one\n", key="first") is None
    task = attempt(task_id)
    task.begin_call(1, "", None)
    assert write_log("two\n", key="first") == "it stood in the log already"
    assert write_notification("alice", key="first") == "it stood in the log already"
    assert write_log("one\n", key="second") is None
    attempt(new_task_id())
    assert write_log("one\n", key="first") is None
    assert log_file.read_text() == "one\none\none\n"


def test_write_log__outside_of_a_task(log_file: Path) -> None:
    assert current_task.get() is None
    assert task_of_caller() is None
    assert [write_log("one\n", key=key) for key in (None, "the same") * 2] == [None] * 4
    assert log_file.read_text() == "one\n" * 4


def test_write_notification__late(log_file: Path, attempt: Callable[[str], RunningTask]) -> None:
    """The retry of an older task does not wipe what a newer one wrote, and history says so."""
    older, newer = new_task_id(), new_task_id()
    attempt(newer)
    assert write_notification("bob", "newer") is None
    attempt(older)
    assert write_notification("alice", "older") == "superseded by a newer write"
    assert log_file.read_text() == "notification for bob: newer"


def test_write_log__trims_in_no_transaction_of_the_task(
    log_file: Path, attempt: Callable[[str], RunningTask], caplog: pytest.LogCaptureFixture
) -> None:
    """On SQLite it would wait for the very task that writes; the next write makes up for it."""
    attempt(new_task_id())
    started = time.monotonic()
    with transaction.atomic():
        FailedAttempt.objects.create(row=1, number=1, started=timezone.now(), stopped=timezone.now())
        write_log("x" * TRIM_FROM + "\n")
        write_log("within\n")
    assert time.monotonic() - started < 1.5
    write_log("after\n")
    assert Journal.objects.get().trims == 1
    assert not caplog.text
