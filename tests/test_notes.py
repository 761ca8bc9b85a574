"""What else there is to say about a task: kept once, shown on its page, and gone when its history is."""

from datetime import timedelta
from html import unescape

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ, Success

from durable_queue.admin import pages
from durable_queue.models import Note
from durable_queue.store.notes import NOTE_BYTES, NOTE_LENGTH, keep_notes
from durable_queue.upkeep import pruning
from tests.support.admin_site import SCRIPT, TRACEBACK, page, post, settle

pytestmark = pytest.mark.django_db

LATE = "It wrote after its end."
TWICE = "What it wrote may stand in the file twice."
STATES = ["queued", "succeeded", "failed"]


def keep(*notes: tuple[str, str]) -> None:
    """Keep notes where the tests' tasks are."""
    keep_notes(notes, using="default")


def kept() -> list[tuple[str, str]]:
    """All notes that are kept, in their order."""
    return list(Note.objects.values_list("task_id", "text"))


def task_page(client: Client, state: str, *texts: str) -> str:
    """The page of a task that came to this state, with these notes."""
    task_id = post("alice")
    keep(*[(task_id, text) for text in texts])
    if state == "queued":
        return page(client, "django_q_ormq_change", OrmQ.objects.get().pk)
    settle(error=TRACEBACK if state == "failed" else "")
    return page(client, f"django_q_{'failure' if state == 'failed' else 'success'}_change", task_id)


def test_keep__the_same_remark_is_kept_once() -> None:
    keep(("alice", LATE), ("alice", LATE))
    first = Note.objects.get()
    keep(("alice", LATE))
    assert Note.objects.values("pk", "at").get() == {"pk": first.pk, "at": first.at}


def test_keep__all_that_is_new_in_the_order_in_which_it_was_said() -> None:
    keep(("alice", TWICE))
    keep(("alice", LATE), ("alice", TWICE), ("bob", TWICE), ("alice", "and more"))
    assert kept() == [("alice", TWICE), ("alice", LATE), ("bob", TWICE), ("alice", "and more")]


def test_keep__nothing() -> None:
    keep()
    assert not kept()


@pytest.mark.parametrize(
    ("said", "stored"),
    [("a\0b", "a\ufffdb"), ("a\ud800b", "a?b"), ("“ä”\n\U0001f600", "“ä”\n\U0001f600")],
    ids=["NUL", "a lone surrogate", "all else as it is"],
)
def test_keep__text_that_no_database_stores(said: str, stored: str) -> None:
    keep(("alice", said))
    assert kept() == [("alice", stored)]


def test_keep__a_long_text_is_cut() -> None:
    keep(("alice", "x" * 10_000_000), ("alice", "x" * NOTE_LENGTH), ("alice", "x" * NOTE_LENGTH + "y"))
    assert kept() == [("alice", "x" * NOTE_LENGTH)]


@pytest.mark.parametrize(
    "said", ["\0" * NOTE_LENGTH, "".join(map(chr, range(0x4E00, 0x4E00 + NOTE_LENGTH)))], ids=["NUL", "Chinese"]
)
def test_keep__a_text_of_many_bytes_is_cut_to_what_an_index_can_hold(said: str) -> None:
    """Its characters differ, so that PostgreSQL can't compress it."""
    keep(("a" * 32, said))
    text = Note.objects.get().text
    assert said.replace("\0", "\ufffd").startswith(text)
    assert NOTE_BYTES - 3 < len(text.encode()) <= NOTE_BYTES


@pytest.mark.parametrize("state", STATES)
def test_page__shows_the_notes(admin_client: Client, state: str) -> None:
    keep(("bob", "a remark on another task"))
    html = unescape(task_page(admin_client, state, LATE, TWICE))
    assert "Notes:" in html
    assert f"<li><p>{LATE}</p></li>" in html
    assert html.index(LATE) < html.index(TWICE)
    assert "a remark on another task" not in html


@pytest.mark.parametrize("state", STATES)
def test_page__nothing_where_there_are_none(admin_client: Client, state: str) -> None:
    keep(("bob", "a remark on another task"))
    html = task_page(admin_client, state)
    assert "message to alice" in html
    assert "Notes" not in html


@pytest.mark.parametrize("state", STATES)
def test_page__escapes_notes(admin_client: Client, state: str) -> None:
    html = task_page(admin_client, state, SCRIPT)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_page__no_more_than_a_page_can_show(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "NOTES_SHOWN", 2)
    html = task_page(admin_client, "succeeded", "the first", "the second", "the last")
    assert "the first" not in html
    assert "the second" in html
    assert "the last" in html


def test_prune__takes_old_notes() -> None:
    keep(("alice", LATE), ("bob", LATE))
    Note.objects.filter(task_id="alice").update(at=timezone.now() - timedelta(days=30, seconds=1))
    Note.objects.filter(task_id="bob").update(at=timezone.now() - timedelta(days=30, seconds=-60))
    assert pruning.prune(timedelta(days=30), using="default") == 1
    assert kept() == [("bob", LATE)]
    assert pruning.prune(timedelta(days=30), using="default") == 0


def test_history__deleting_takes_notes_along(admin_client: Client) -> None:
    alice, bob = post("alice"), post("bob")
    settle()
    keep((alice, LATE), (bob, LATE))
    admin_client.post(reverse("admin:django_q_success_delete", args=[alice]), {"post": "yes"})
    assert [task.pk for task in Success.objects.all()] == [bob]
    assert kept() == [(bob, LATE)]
