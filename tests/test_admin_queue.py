"""The admin's page of queued tasks: payloads that must not be run, rows that must not be deleted; and what lists cost."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ, Success
from django_q.signing import SignedPackage
from django_q.tasks import async_task

from durable_queue.admin import pages, queue
from notifications.tasks import write_log
from tests.support import environment, selection
from tests.support.admin_site import TRACEBACK, act, page, post, settle, take
from tests.support.cluster_tasks import KillsWhenUnpickled, RaisesWhenUnpickled
from tests.support.processes import manage

pytestmark = [pytest.mark.django_db, selection.slow_on_postgresql]


class MakesFolder:
    """An argument that does something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@selection.slow_on_postgresql
@pytest.mark.parametrize("is_tampered", [True, False], ids=["tampered", "signed"])
def test_queue__looking_runs_nothing(admin_client: Client, tmp_path: Path, *, is_tampered: bool) -> None:
    folder = tmp_path / "made-by-unpickling"
    async_task(write_log, MakesFolder(folder), task_name="poison")
    row = OrmQ.objects.get()
    if is_tampered:
        OrmQ.objects.update(payload=f"{row.payload[:-1]}{'A' if row.payload[-1] != 'A' else 'B'}")
    html = page(admin_client, "django_q_ormq_changelist") + page(admin_client, "django_q_ormq_change", row.pk)
    assert not folder.exists()
    if is_tampered:
        assert "unreadable" in html
        assert "signature is wrong" in html
    else:
        assert "mkdir(&#x27;" in html
        SignedPackage.loads(row.payload)
        assert folder.exists(), "this poison must work, or the test shows nothing"


@selection.slow_on_postgresql
@pytest.mark.parametrize("poison", [RaisesWhenUnpickled(), KillsWhenUnpickled()], ids=["raises", "kills"])
def test_queue__poison_is_shown_by_name(admin_client: Client, poison: object) -> None:
    async_task("tests.support.cluster_tasks.take_one", poison, task_name="poison")
    html = page(admin_client, "django_q_ormq_change", OrmQ.objects.get().pk)
    assert "tests.support.cluster_tasks." in html
    assert "poison" in html


@selection.slow_on_postgresql
@pytest.mark.parametrize(
    "payload",
    ["", "nonsense", SignedPackage.dumps(["no", "package"]), SignedPackage.dumps({"id": 1})],
    ids=["empty", "unsigned", "no package", "an incomplete package"],
)
def test_queue__what_is_no_task_is_shown_as_unreadable(admin_client: Client, payload: str) -> None:
    row = OrmQ.objects.create(key="notifier", payload=payload, lock=timezone.now())
    assert "unreadable" in page(admin_client, "django_q_ormq_changelist")
    assert "Problem" in page(admin_client, "django_q_ormq_change", row.pk)


def test_queue__a_waiting_row_is_deleted(admin_client: Client) -> None:
    post("alice")
    response = admin_client.post(
        reverse("admin:django_q_ormq_delete", args=[OrmQ.objects.get().pk]), {"post": "yes"}, follow=True
    )
    assert "was deleted" in response.content.decode()
    assert not OrmQ.objects.exists()


def test_queue__a_row_that_a_worker_has_is_not_deleted(admin_client: Client) -> None:
    post("alice")
    take(1)
    url = reverse("admin:django_q_ormq_delete", args=[OrmQ.objects.get().pk])
    assert "deletelink" not in page(admin_client, "django_q_ormq_change", OrmQ.objects.get().pk)
    assert admin_client.post(url, {"post": "yes"}).status_code == 403
    assert OrmQ.objects.count() == 1


def test_queue__a_row_taken_while_its_deletion_was_confirmed(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    post("alice")
    take(1)
    monkeypatch.setattr(queue, "is_held", lambda row: False)  # as it looked a moment ago
    url = reverse("admin:django_q_ormq_delete", args=[OrmQ.objects.get().pk])
    assert "was not deleted" in admin_client.post(url, {"post": "yes"}, follow=True).content.decode()
    assert OrmQ.objects.count() == 1


def test_queue__of_several_those_that_wait_are_deleted(admin_client: Client) -> None:
    post("alice")
    take(1)
    post("bob"), post("carol")
    keys = list(OrmQ.objects.values_list("pk", flat=True))
    question = act(admin_client, "django_q_ormq", "delete_selected", keys)
    assert "1 of them are taken by a worker, and stay." in question
    assert "message to carol" in question
    assert "message to alice" not in question
    assert "Successfully deleted 2 Queued tasks" in act(admin_client, "django_q_ormq", "delete_selected", keys, post="yes")
    assert [queue.preview(row).name for row in OrmQ.objects.all()] == ["message to alice"]


@pytest.mark.parametrize("name", ["django_q_ormq", "django_q_success", "django_q_failure"])
def test_list__asks_no_more_for_more_groups_and_rows(admin_client: Client, name: str) -> None:
    def fill(groups: range) -> None:
        for group in groups:
            post("alice", group=f"group {group}")
        if name != "django_q_ormq":
            settle(error=TRACEBACK if name == "django_q_failure" else "")

    counts = []
    for groups in (range(2), range(2, 40)):
        fill(groups)
        with CaptureQueriesContext(connection) as queries:
            html = page(admin_client, f"{name}_changelist")
        counts.append(len(queries))
        assert not any("DISTINCT" in query["sql"] for query in queries)
    assert counts[0] == counts[1] <= 6
    assert html.count('name="_selected_action"') == 40
    assert "group 7" not in html


def test_list__counts_and_selects_no_further_than_it_pages(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LISTED", 3)
    for _ in range(5):
        post("alice")
    settle()
    html = page(admin_client, "django_q_success_changelist")
    assert "3 Successful tasks" in html
    assert "There may be more" in html
    newest = [task.pk for task in Success.objects.order_by("-stopped", "-pk")]
    act(admin_client, "django_q_success", "delete_selected", newest[:1], select_across="1", post="yes")
    assert Success.objects.count() == 2


def read_in_another_process(task_id: str) -> tuple[int, str]:
    """Open a task's page in a fresh process; return the megabytes that this took at most, and the page."""
    script = f"""
from pathlib import Path
from django.test import Client
from django.contrib.auth.models import User
client = Client()
client.force_login(User.objects.get())
client.get("/admin/django_q/success/add/")  # loads what every page needs
def most():  # in kilobytes; what getrusage(2) tells begins with the memory of the process that started this one
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = most()
page = client.get("/admin/django_q/success/{task_id}/change/")
print(most() - before, page.content.decode())
"""
    env = {"DATABASE_URL": environment.database_url_of_test(), "NOTIFIER_ALLOWED_HOSTS": "testserver"}
    kilobytes, _, html = manage("shell", "--no-imports", "-c", script, env=env).partition(" ")
    return int(kilobytes) // 1024, html


@pytest.mark.django_db(transaction=True)
def test_success__a_result_of_20_million_characters(admin_client: Client) -> None:
    """Its page takes the process that shows it no more memory than the stored text is long."""
    now = timezone.now()
    task = Success.objects.create(
        id="0" * 32, name="big", func="f", result="x" * 20_000_000, success=True, started=now, stopped=now
    )
    megabytes, html = read_in_another_process(task.pk)
    assert "x" * 1000 in html
    assert len(html) < 100_000
    assert megabytes < (45 if connection.vendor == "sqlite" else 10), "SQLite reads a value as a whole"
