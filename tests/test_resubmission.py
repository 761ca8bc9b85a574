"""Failed tasks that are retried: under the same id, and once."""

import pickle
import resource
import threading
import time
from binascii import b2a_base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from django_q.models import Failure, OrmQ, Task
from django_q.signing import SignedPackage
from django_q.tasks import async_task

from durable_queue.admin import queue
from durable_queue.models import DeadLetter
from durable_queue.store.databases import table_of
from durable_queue.store.rows import HistoryRow
from durable_queue.task import signing
from durable_queue.task.preview import STORED, Unreadable, read_stored
from durable_queue.task.preview import shown as preview_shown
from durable_queue.verbs import Came, NotKeptError, retry
from tests.support import selection
from tests.support.admin_site import TRACEBACK, act, page, post, refuse, settle, staff
from tests.support.cluster_tasks import RaisesWhenUnpickled
from tests.support.processes import manage
from tests.support.unpickled import RAN, Runs

pytestmark = pytest.mark.django_db


def test_retry__keeps_what_the_task_is(admin_client: Client) -> None:
    task_id = async_task(
        "notifications.tasks.write_notification",
        "alice@example.com",
        message="some notification",
        q_options={"task_name": "alice", "group": "friends", "hook": "tests.support.cluster_tasks.mark"},
    )
    before = SignedPackage.loads(OrmQ.objects.get().payload)
    settle(error=TRACEBACK)
    assert "1 task was queued again." in act(admin_client, "django_q_failure", "retry", [task_id])
    after = SignedPackage.loads(OrmQ.objects.get().payload)
    del before["started"]  # it is told by the id, which stays
    assert after == before
    assert after["id"] == task_id
    assert not Task.objects.exists()


def test_retry__runs_and_shows_the_attempts_before(admin_client: Client) -> None:
    task_id = post("alice")
    settle(error=TRACEBACK)
    assert retry(task_id, by="alice") is Came.DONE
    settle()
    html = page(admin_client, "django_q_success_change", task_id)
    assert "Failed attempts" in html
    assert "disk full" in html


def test_retry__twice_queues_it_once(admin_client: Client) -> None:
    task_id = post("alice")
    settle(error=TRACEBACK)
    act(admin_client, "django_q_failure", "retry", [task_id])
    act(admin_client, "django_q_failure", "retry", [task_id])
    assert retry(task_id, by="alice") is Came.REFUSED
    assert OrmQ.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_retry__at_the_same_moment_queues_it_once() -> None:
    task_id = post("alice")
    settle(error=TRACEBACK)
    start, results = threading.Barrier(4), []

    def click() -> None:
        start.wait()
        try:
            results.append(retry(task_id, by="alice"))
        finally:
            connection.close()

    clicks = [threading.Thread(target=click) for _ in range(4)]
    for thread in clicks:
        thread.start()
    for thread in clicks:
        thread.join()
    assert sorted(results) == [Came.DONE, *[Came.REFUSED] * 3]
    assert OrmQ.objects.count() == 1


def test_retry__several_go_back_in_their_first_order(admin_client: Client) -> None:
    ids = [post(name) for name in ("alice", "bob", "carol")]
    settle(error=TRACEBACK)
    assert "3 tasks were queued again." in act(admin_client, "django_q_failure", "retry", [ids[2], ids[0], ids[1]])
    assert [queue.preview(row).id for row in OrmQ.objects.order_by("lock", "pk")] == ids


def test_retry__what_could_not_be_read_goes_back_as_it_was(admin_client: Client) -> None:
    async_task("tests.support.cluster_tasks.take_one", RaisesWhenUnpickled())
    payload = OrmQ.objects.get().payload
    refuse("The payload can't be unpickled.")
    failure = Failure.objects.get()
    assert "Kept as it was queued" in page(admin_client, "django_q_failure_change", failure.pk)
    act(admin_client, "django_q_failure", "retry", [failure.pk])
    assert OrmQ.objects.get().payload == payload
    assert not DeadLetter.objects.exists()


def test_retry__arguments_that_cannot_be_unpickled_any_more(admin_client: Client) -> None:
    task_id = post("alice")
    settle(error=TRACEBACK)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_q_task SET args = 'gone'")
    with pytest.raises(NotKeptError):
        retry(task_id, by="alice")
    html = act(admin_client, "django_q_failure", "retry", [task_id])
    assert "can&#x27;t be unpickled any more" in html
    assert Failure.objects.exists()
    assert not OrmQ.objects.exists()


def test_retry__needs_permission() -> None:
    task_id = post("alice")
    settle(error=TRACEBACK)
    bob = staff("view_failure", "delete_failure")
    assert 'value="retry"' not in page(bob, "django_q_failure_changelist")
    act(bob, "django_q_failure", "retry", [task_id])
    assert not OrmQ.objects.exists()


@selection.slow_on_postgresql
def test_retry__writes_the_line_under_the_same_id(installation: dict[str, str], log_file: Path) -> None:
    env = installation | {"NOTIFIER_LOG_FILE": str(log_file.parent / "missing" / "log.txt")}

    def shell(code: str) -> str:
        code = f"from django_q.models import *; from durable_queue.verbs import retry; {code}"
        return manage("shell", "--no-imports", "-c", code, env=env).strip()

    manage("migrate", "--skip-checks", "-v0", env=env)
    task_id = shell(
        "from django_q.tasks import async_task; "
        "print(async_task('notifications.tasks.write_log', 'message to alice\\n', ack_failure=True))"
    )
    manage("qcluster", "--run-once", "--skip-checks", env=env)
    assert shell("print(Failure.objects.get().id)") == task_id
    (log_file.parent / "missing").mkdir()
    assert shell(f"print(retry('{task_id}', by='alice'), Failure.objects.count())") == "done 0"
    manage("qcluster", "--run-once", env=env)
    assert shell("print(Success.objects.get().id)") == task_id
    assert (log_file.parent / "missing" / "log.txt").read_text() == "message to alice\n"


def test_retry__unpickles_nothing_in_this_process(admin_client: Client) -> None:
    """Neither does any page: what a value of the history does when it is unpickled, it may do in a worker only."""
    task_id = async_task("tests.support.cluster_tasks.take_one", Runs())
    row = HistoryRow(
        task_id, "poison", "tests.support.cluster_tasks.take_one", None, (Runs(),), {"a": Runs()},
        Runs(), None, None, timezone.now(), timezone.now(), False, 1,
    )  # fmt: skip
    OrmQ.objects.all().delete()
    table_of(connection).save_history([row])
    assert "poison" in page(admin_client, "django_q_failure_changelist")
    assert "_note_run" in page(admin_client, "django_q_failure_change", task_id)
    assert "1 task was queued again." in act(admin_client, "django_q_failure", "retry", [task_id])
    shown = queue.preview(OrmQ.objects.get())
    assert (shown.id, shown.problem) == (task_id, "")
    assert "_note_run" in repr(shown.args)
    assert RAN == []


def test_retry__the_worker_gets_the_same_arguments(admin_client: Client) -> None:
    arguments = ("text", 5, [1, {"two": 2}], datetime.now(UTC))
    task_id = async_task("tests.support.cluster_tasks.take_one", *arguments, key={"word": ["a", "b"]})
    settle(error=TRACEBACK)
    act(admin_client, "django_q_failure", "retry", [task_id])
    task = signing.loads(OrmQ.objects.get().payload)
    assert (task["args"], task["kwargs"]) == (arguments, {"key": {"word": ["a", "b"]}})


def pickled(value: bytes) -> str:
    """A pickle as a column holds it."""
    return b2a_base64(value, newline=False).decode()


def test_read_stored__is_bounded_by_what_is_stored() -> None:
    """Whatever a column holds: no page takes a web process's memory or time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    many = b"\x80\x04]r\xff\xff\xff\x7f."  # claims to have two thousand million values before
    assert read_stored(pickled(many)) == []
    shared: object = "x"
    for _ in range(60):
        shared = [shared] * 10
    assert "too many parts" in preview_shown(read_stored(pickled(pickle.dumps(shared))))
    assert "too many parts" in preview_shown(read_stored(pickled(pickle.dumps(["x" * 500_000] * 50_000))))
    assert isinstance(read_stored(pickled(b"\x80\x05\x96\x00\x00\x00\x00\x02\x00\x00\x00.")), Unreadable), "8 GB, it says"
    long = pickled(pickle.dumps(["x" * 100] * 1000 + ["y" * 1_000_000]))
    assert "too long to be shown" in preview_shown(read_stored(long[: STORED + 1]))
    text = pickled(pickle.dumps("first line\n" + "x" * 10_000_000))
    assert str(read_stored(text[: STORED + 1])).startswith("first line\nxxx")
    for garbage in ("", "gone", "ä", "gASV", pickled(b"\x80\x05\x8c\xff.")):
        assert isinstance(read_stored(garbage), Unreadable)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert time.monotonic() - began < 10
