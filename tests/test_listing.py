"""The newest tasks, page by page, across the queue and the history: durable_queue/store/listing.py."""

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from django_q.models import OrmQ, Task

from durable_queue.models import Cancellation, FailedAttempt, Worker
from durable_queue.states import State, for_now
from durable_queue.status import newest
from durable_queue.store import listing
from durable_queue.store.broker import Broker
from durable_queue.task import signing
from tests.support.lookup_rows import package
from tests.support.queue_rows import worker

pytestmark = pytest.mark.django_db(transaction=True)

BEGAN = datetime(2026, 11, 1, tzinfo=UTC)


def id_of(number: int) -> str:
    """The id of a task that was queued in that second."""
    milliseconds = int((BEGAN + timedelta(seconds=number)).timestamp() * 1000)
    return f"{milliseconds:012x}7000{0x8000 + number:016x}"


def queue(task_id: str, *, since: datetime | None = None, name: str = "notifier") -> str:
    """Queue a task, as if at the moment that its id tells."""
    at = since or datetime.fromtimestamp(int(task_id[:12], 16) / 1000, UTC)
    row = Broker(name).enqueue_all([signing.dumps(package() | {"id": task_id})])
    OrmQ.objects.filter(pk=row).update(lock=for_now(at))
    return task_id


def end(task_id: str, *, success: bool = True, cluster: str = "notifier") -> str:
    """A task that has ended."""
    fields: dict[str, Any] = {"name": "t", "func": "f", "started": BEGAN, "stopped": BEGAN, "cluster": cluster}
    return str(Task.objects.create(id=task_id, success=success, **fields).id)


def pages(limit: int = 3, **asked: Any) -> list[list[str]]:
    """The ids on all pages."""
    found: list[list[str]] = []
    cursor: str | None = None
    while True:
        listed, cursor = newest(limit=limit, before=cursor, **asked)
        found.append([each.id for each in listed])
        if cursor is None:
            return found
        assert cursor.isascii()
        assert not set(cursor) & set("+/= ")


def flat(found: Sequence[Sequence[str]]) -> list[str]:
    """All ids, in their order."""
    return [task_id for page in found for task_id in page]


def test_newest__of_none() -> None:
    assert newest(limit=5) == ([], None)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_newest__queued_and_ended_ones_in_the_order_of_their_queueing(limit: int) -> None:
    ids = [id_of(number) for number in range(20)]
    for number, task_id in enumerate(ids):
        if number % 3:
            queue(task_id)
        else:
            end(task_id, success=number % 2 == 0)
    found = pages(limit)
    assert flat(found) == ids[::-1]
    assert all(len(page) == limit for page in found[:-1])


def test_newest__has_an_upper_limit() -> None:
    for number in range(120):
        end(id_of(number))
    assert [len(page) for page in pages(5000)] == [listing.MOST, 20]
    assert len(newest(limit=0)[0]) == 1


def test_newest__ids_that_tell_nothing() -> None:
    """Queued ones stand where they were queued, ended ones behind all others."""
    first, last = id_of(1), id_of(3)
    random = [uuid.uuid4().hex for _ in range(5)]
    end(first)
    queue(random[0], since=BEGAN + timedelta(seconds=2))
    queue(last)
    ended = sorted((end("f" + task_id[1:]) for task_id in random[1:]), reverse=True)
    for limit in (1, 2, 3, 100):
        assert flat(pages(limit)) == [last, random[0], first, *ended]


def test_newest__a_retried_task_is_among_the_first_and_keeps_nobody_back() -> None:
    ids = [id_of(number) for number in range(1, 7)]
    for task_id in ids[:3]:
        end(task_id)
    for task_id in ids[3:]:
        queue(task_id)
    retried = queue(id_of(0), since=timezone.now())
    assert flat(pages(2)) == [retried, *ids[::-1]]


@pytest.mark.parametrize("limit", [3, 4])
def test_newest__a_task_that_ends_between_two_pages_is_listed_once(limit: int) -> None:
    ids = [id_of(number) for number in range(10)]
    for task_id in ids:
        (queue if int(task_id, 16) % 2 else end)(task_id)
    listed, cursor = newest(limit=limit)
    seen = [each.id for each in listed]
    OrmQ.objects.all().delete()
    for task_id in ids:
        if int(task_id, 16) % 2:
            end(task_id)
    while cursor:
        listed, cursor = newest(limit=limit, before=cursor)
        seen += [each.id for each in listed]
    assert seen == ids[::-1]


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_newest__one_that_ends_between_two_pages_is_listed_whatever_its_id(limit: int) -> None:
    """Ids of one millisecond are in no order."""
    ids = [f"{id_of(1)[:12]}7{digits:03x}{0x8000:016x}" for digits in (5, 9, 1, 7, 3)]
    for task_id in ids:
        queue(task_id)
    listed, cursor = newest(limit=limit)
    seen = [each.id for each in listed]
    OrmQ.objects.all().delete()
    for task_id in ids:
        end(task_id)
    while cursor:
        listed, cursor = newest(limit=limit, before=cursor)
        seen += [each.id for each in listed]
    assert {*seen} == {*ids}


def test_newest__one_that_stands_in_both_tables_is_listed_once() -> None:
    end(queue(id_of(1)))
    assert pages() == [[id_of(1)]]
    assert newest(limit=3)[0][0].state is State.QUEUED


def test_newest__rows_and_history_of_other_making() -> None:
    OrmQ.objects.create(key="notifier", payload="garbage", lock=None)
    end("no id")
    end("zzz")
    last = queue(id_of(1))
    OrmQ.objects.filter(payload__startswith="gAWV").update(lock=None)
    assert flat(pages(1)) == [last]


def one_in_each_state() -> dict[State, str]:
    """A task in each state."""
    ids = {state: id_of(number) for number, state in enumerate(State)}
    queue(ids[State.RUNNING])
    Broker().settle_and_claim(worker("alice"), claim=1)
    queue(ids[State.QUEUED])
    for state in (State.SCHEDULED, State.RETRYING):
        queue(ids[state])
        OrmQ.objects.filter(pk=OrmQ.objects.latest("pk").pk).update(lock=timezone.now() + timedelta(hours=1))
    FailedAttempt.objects.create(row=OrmQ.objects.latest("pk").pk, number=1, outcome="failed", started=BEGAN, stopped=BEGAN)
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        end(ids[state], success=state is State.SUCCEEDED)
    Cancellation.objects.create(task_id=ids[State.CANCELLED], by="bob", heeded=BEGAN)
    Cancellation.objects.create(task_id=ids[State.FAILED], by="bob")
    return ids


@pytest.mark.parametrize("state", list(State))
def test_newest__in_one_state(state: State) -> None:
    ids = one_in_each_state()
    assert flat(pages(state=state)) == [ids[state]]
    assert set(flat(pages())) == set(ids.values())
    assert flat(pages(state=state, queue="other")) == []


def test_newest__of_one_queue() -> None:
    ours = [queue(id_of(1)), end(id_of(2)), queue(id_of(3), name="notifier:alone")]
    theirs = [queue(id_of(4), name="other"), end(id_of(5), cluster="other")]
    assert flat(pages(1, queue="notifier")) == ours[::-1]
    assert flat(pages(1, queue="other")) == theirs[::-1]


@pytest.mark.parametrize("limit", [1, 4])
def test_newest__a_filter_that_leaves_few_reads_on_from_page_to_page(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SCANNED", 5)
    expected = []
    for number in range(40):
        name = "rare" if number in {3, 4, 30, 31} else "notifier"
        task_id = end(id_of(number), cluster=name) if number % 2 else queue(id_of(number), name=name)
        expected += [task_id] if name == "rare" else []
    found = pages(limit, queue="rare")
    assert flat(found) == expected[::-1]
    assert len(found) > 4, "each reads a few rows"
    assert [] in found


CURSORS = ["x", "é", "AAAA", "W10", "WzEsMiwzXQ", "bnVsbA", "WzEsIiIsIiIsIiJd", "Wy0xLCIiLCIiXQ", "WzEsIlx1MDAwMCIsIiJd"]


@pytest.mark.parametrize("cursor", [*CURSORS, "W" * 9999], ids=lambda cursor: ascii(cursor[:10]))
def test_newest__what_is_no_cursor(cursor: str) -> None:
    with pytest.raises(ValueError, match="is no cursor"):
        newest(limit=1, before=cursor)


def test_newest__reads_few_rows_of_long_tables() -> None:
    """Counted in rows that the database gives, not in time."""
    now = timezone.now()
    Task.objects.bulk_create(
        Task(id=id_of(number), name="t", func="f", started=now, stopped=now, success=True) for number in range(3000)
    )
    Broker().enqueue_all([signing.dumps(package() | {"id": id_of(number)}) for number in range(3000, 6000)])
    given = []
    from durable_queue.store.databases import table_of  # noqa: PLC0415

    table = table_of(connection)
    run = table.run
    table.run = lambda *asked: given.append(rows := run(*asked)) or rows  # type: ignore[method-assign, func-returns-value]
    before = time.monotonic()
    page = listing.page(table, limit=50, before=None, state=None, queue="")
    assert len(page.task_ids) == 50
    assert sum(map(len, given)) <= 2 * 51
    assert time.monotonic() - before < 30
    assert Worker.objects.count() == 0
