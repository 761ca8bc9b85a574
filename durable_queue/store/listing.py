"""A page of tasks, those that were queued last first, across the queue and the history. It reads a bounded number of rows.

No index has the tasks of both tables in one order. So a page is merged from three streams, each in the order of its index:

- queued tasks, by their rows: the row that was inserted last comes first. A task that was retried is one of these last ones.
- tasks that have ended, by their ids, which tell when they were queued (`new_task_id`).
- tasks that have ended and whose ids tell nothing, as those of stock django-q2, which are random: behind all others, by ids.

The first two are merged by the moments at which the tasks were queued. A task that ends between two pages is on one of them,
or on both; one that is retried between two pages may be on none: it is among the first now.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, NamedTuple

from durable_queue.models import Cancellation
from durable_queue.states import FOR_NOW_UNTIL, State, due_since, held_from, state_of_ended, state_of_row
from durable_queue.store.leases import alone_queue, home_queue
from durable_queue.store.lookup import id_in_place
from durable_queue.store.rows import ATTEMPTS_TABLE, HISTORY_TABLE, QUEUE_TABLE, WORKERS_TABLE
from durable_queue.store.table import Table
from durable_queue.task.identifiers import is_task_id, queued_at

MOST = 100  # tasks on a page
SCANNED = 2_000  # rows that are read of each stream, where a filter may leave few of them
AHEAD = timedelta(days=1)  # a clock that was ahead by more has made ids that seem to be none of ours
ID_LENGTH = 32
CANCELLATIONS_TABLE = Cancellation._meta.db_table

_LAST_ROW, _LAST_ID = 2**63 - 1, "g"  # beyond all others


class BadCursorError(ValueError):
    """A cursor that no page has given."""


class Page(NamedTuple):
    """The ids of a page's tasks, in their order, and the cursor of the next page; None: there is none."""

    task_ids: Sequence[str]
    cursor: str | None


class _Place(NamedTuple):
    """Up to where each stream was listed: only what lies below is listed next."""

    row: int  # 0: there are no more
    timed: str  # empty: there are no more
    random: str

    def cursor(self) -> str | None:
        if not any(self):
            return None
        return urlsafe_b64encode(json.dumps(self).encode()).decode().rstrip("=")

    @classmethod
    def of(cls, cursor: str) -> "_Place":
        try:
            row, *ids = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            if type(row) is int and 0 <= row <= _LAST_ROW and all(len(at) <= ID_LENGTH + 1 and at.isprintable() for at in ids):
                return cls(row, *ids)
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass
        raise BadCursorError(f"{cursor!r:.60} is no cursor of a list of tasks")


class _Item(NamedTuple):
    """A row of a stream."""

    moment: int  # when the task was queued, in milliseconds since 1970
    place: Any  # in its stream
    task_id: str | None  # None: it is not listed


@dataclass
class _Stream:
    """A stream's next rows, the last of which were read but for the filter's sake."""

    items: list[_Item]
    place: Any  # up to where it was listed
    end: Any  # the place of a stream of which all was listed
    is_whole: bool  # whether these are all that are left
    _next: int = field(default=0)

    @property
    def head(self) -> _Item | None:
        """The next one that is to be listed. Passes by those that are not."""
        while self._next < len(self.items):
            item = self.items[self._next]
            if item.task_id is not None:
                return item
            self.place, self._next = item.place, self._next + 1
        return None

    def take(self) -> None:
        """List the head."""
        self.place = self.items[self._next].place
        self._next += 1

    @property
    def reached(self) -> int | None:
        """The moment down to which all was read; None: all there is."""
        return None if self.is_whole else self.items[-1].moment


def page(table: Table, *, limit: int, before: str | None, state: State | None, queue: str) -> Page:
    """The next page, by one snapshot. `queue`: a queue's name; empty for all. Raises BadCursorError, and
    django.db.Error.
    """
    limit = max(1, min(limit, MOST))
    place = _Place.of(before) if before else _Place(_LAST_ROW, _LAST_ID, _LAST_ID)
    most = SCANNED if state or queue else limit + 1
    rows: list[list[tuple[Any, ...]]] = [[], [], []]
    if branches := list(_branches(table, place, state, most)):
        sql = " UNION ALL ".join(f"SELECT * FROM ({sql}) AS stream{number}" for number, (sql, _) in enumerate(branches))  # noqa: S608
        for stream, *columns in table.run(sql, [value for _, values in branches for value in values]):
            rows[stream].append(tuple(columns))
    queued = _queued(table, rows[0], state, queue)
    timed, random = (_ended(found, state, queue) for found in rows[1:])
    streams = [
        _Stream(items, at, end, is_whole=len(items) < most)
        for items, at, end in zip((queued, timed, random), place, (0, "", ""), strict=True)
    ]
    task_ids = _merge(streams, limit)
    return Page(task_ids, _Place(*(stream.place for stream in streams)).cursor())


def _merge(streams: Sequence[_Stream], limit: int) -> list[str]:
    """The first ids of all streams, and each stream's place behind them."""
    queued, timed, random = streams
    task_ids: dict[str, None] = {}
    last = 0
    while len(task_ids) < limit:
        candidates = [(head.moment, stream) for stream in (timed, queued) if (head := stream.head)]
        # What a stream has below the rows that were read may come before the other's head.
        limits = [stream.reached for stream in (timed, queued) if not stream.head and stream.reached is not None]
        moment, first = max(candidates, key=lambda each: each[0], default=(0, random))
        head = first.head
        if head is None or any(moment <= reached for reached in limits):
            break
        first.take()
        assert head.task_id is not None  # noqa: S101
        task_ids[head.task_id] = None
        last = moment if first is not random else last
        if first is queued and timed.place:
            # When it ends, it has no place among those that are to come.
            timed.place = min(timed.place, f"{moment:012x}")
    is_over = [stream.head is None and stream.is_whole for stream in streams]  # passes by what is not listed
    if last and timed.place:
        timed.place = max(timed.place, _needed(queued, last))
    for stream, ended in zip(streams, is_over, strict=True):
        if ended and is_over[0]:  # what is still queued may end
            stream.place = stream.end
    return list(task_ids)


def _needed(queued: _Stream, moment: int) -> str:
    """The place below which all that are still queued have theirs, once they end; `moment`: of the last one that was listed.

    Ids of one millisecond are in no order. So one that ends may be listed twice, and none is missing.
    """
    same = [*takewhile(lambda item: item.moment == moment, queued.items[queued._next :])]
    if same and queued._next + len(same) == len(queued.items) and not queued.is_whole:
        return f"{moment:012x}{_LAST_ID}"  # who knows which ones follow
    return max((f"{item.task_id}0" for item in same if item.task_id), default="")


def _branches(table: Table, place: _Place, state: State | None, most: int) -> Iterator[tuple[str, list[Any]]]:
    """The queries of the streams, each with its values."""
    ended = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
    if place.row and state not in ended:
        yield _queue_branch(table, place.row, state, most)
    if state in (None, *ended):
        until = f"{int((datetime.now(UTC) + AHEAD).timestamp() * 1000):012x}"
        if place.timed:
            yield _history_branch(table, 1, ("< %s", [min(place.timed, until)]), state, most)
        if place.random:
            yield _history_branch(table, 2, (">= %s AND {} < %s", [until, place.random]), state, most)


def _queue_branch(table: Table, row: int, state: State | None, most: int) -> tuple[str, list[Any]]:
    tried = f"SELECT count(*) FROM {ATTEMPTS_TABLE} WHERE row = q.id"  # noqa: S608
    # In all streams: the place, the payload's beginning, the queue, `lock`, the present moment, `success`, a count.
    # Each of one type: PostgreSQL takes a NULL in a subquery for text.
    moments = f"{table.dialect.as_text('q.lock')}, CAST({table.dialect.present} AS text)"
    columns = f"0, CAST(q.id AS text), substr(q.payload, 1, 72), {table.dialect.as_text('q.key')}, {moments}, 0, ({tried})"
    if state is State.RUNNING:  # by the workers' leases, however long the queue is
        # That a lease is later than all else tells the planner that few rows have one, where many have the same `lock`.
        held = table.dialect.look_up(QUEUE_TABLE, "q", "q.key = w.queue AND q.lock = w.lease AND q.lock > %s AND q.id < %s")
        values = [table.moment(held_from()), row]
        return f"SELECT {columns} FROM {WORKERS_TABLE} AS w {held} ORDER BY q.id DESC LIMIT {most}", values  # noqa: S608
    return f"SELECT {columns} FROM {QUEUE_TABLE} AS q WHERE q.id < %s ORDER BY q.id DESC LIMIT {most}", [row]  # noqa: S608


def _history_branch(
    table: Table, number: int, span: tuple[str, list[Any]], state: State | None, most: int
) -> tuple[str, list[Any]]:
    condition, values = span
    heeded = f"SELECT count(*) FROM {CANCELLATIONS_TABLE} AS c WHERE c.task_id = h.id AND c.heeded IS NOT NULL"  # noqa: S608
    cluster, success = table.dialect.as_text("h.cluster"), "CASE WHEN h.success THEN 1 ELSE 0 END"
    columns = f"{number}, h.id, NULL, {cluster}, NULL, NULL, {success}, ({heeded})"
    if state is State.CANCELLED:  # they are few
        some = f"c.heeded IS NOT NULL AND c.task_id {condition.format('c.task_id')}"
        source = f"{CANCELLATIONS_TABLE} AS c {table.dialect.look_up(HISTORY_TABLE, 'h', 'h.id = c.task_id')} WHERE {some}"
        return f"SELECT {columns} FROM {source} ORDER BY c.task_id DESC LIMIT {most}", values  # noqa: S608
    failed = f" {table.dialect.by_failed} WHERE NOT h.success AND" if state is State.FAILED else " WHERE"
    source = f"{HISTORY_TABLE} AS h{failed} h.id {condition.format('h.id')}"
    return f"SELECT {columns} FROM {source} ORDER BY h.id DESC LIMIT {most}", values  # noqa: S608


def _queued(table: Table, rows: Sequence[tuple[Any, ...]], state: State | None, queue: str) -> list[_Item]:
    """The stream of queued tasks. The moment of each is no earlier than that of any task below it."""
    now, latest, items = datetime.now(UTC), 0, list[_Item]()
    queues = {home_queue(queue), alone_queue(queue)}
    for row, beginning, key, locked, present, _, tried in sorted(rows, key=lambda each: int(each[0])):
        lock = table.read(locked) if locked else None
        task_id = id_in_place(beginning) or ""
        is_listed = is_task_id(task_id) and (not queue or key in queues)
        if state and state_of_row(lock, tried, table.aware(present) if present else now) is not state:
            is_listed = False
        at = [moment for moment in (queued_at(task_id), lock and lock < FOR_NOW_UNTIL and due_since(lock)) if moment]
        latest = max([latest, *(int(moment.timestamp() * 1000) for moment in at if moment < now + AHEAD)])
        items.append(_Item(latest, int(row), task_id if is_listed else None))
    return items[::-1]


def _ended(rows: Sequence[tuple[Any, ...]], state: State | None, queue: str) -> list[_Item]:
    """The stream of tasks that have ended."""
    items = []
    for task_id, _, cluster, _, _, success, heeded in sorted(rows, key=lambda each: str(each[0]), reverse=True):
        is_listed = is_task_id(task_id) and (not queue or home_queue(cluster or "") == home_queue(queue))
        if state and state_of_ended(success=bool(success), is_cancelled=bool(heeded)) is not state:
            is_listed = False
        items.append(_Item(_moment_of(task_id), task_id, task_id if is_listed else None))
    return items


def _moment_of(task_id: str) -> int:
    """When a task was queued, in milliseconds since 1970, if its id tells; else what is in the order of the ids, too."""
    return int(task_id[:12], 16) if is_task_id(task_id) else 0
