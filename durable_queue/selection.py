"""A verb for all tasks that match a filter: step by step, each task in a transaction of its own.

Whoever stops this anywhere leaves no half-done task. No step reads more than a batch of rows, each by an index.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import F, Q, TextField, Value
from django.db.models.functions import Left
from django.db.models.lookups import GreaterThan, GreaterThanOrEqual
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Task

from durable_queue.models import Cancellation
from durable_queue.states import State, state_of_row
from durable_queue.store import lookup
from durable_queue.store.databases import stops_all, table_of
from durable_queue.store.leases import home_queue
from durable_queue.store.rows import ATTEMPTS_TABLE, QUEUE_TABLE
from durable_queue.store.table import Table
from durable_queue.task.identifiers import is_task_id, queued_at
from durable_queue.task.preview import STORED, read_stored
from durable_queue.task.stored_text import AsText
from durable_queue.verbs import Came, NotKeptError

logger = logging.getLogger("durable_queue.verbs")

BATCH = 500  # rows
ERRORS = 20  # rows of which a step reads the errors: each may have `STORED` characters
ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)

Verb = Callable[..., Came]  # of durable_queue.verbs


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The tasks in a state for which all that is given holds."""

    state: State
    function: str = ""  # its dotted path, or the last name of it; of tasks that have ended
    queue: str = ""
    before: datetime | None = None  # since when they wait or run: they were queued before; of those that have ended: ended
    error: str = ""  # a part of the error's text, in any case; of failed and cancelled tasks
    last_row: int | None = None  # of those in the queue; this, and the next, are for `bounded` to set
    until: datetime | None = None  # of those that have ended: before

    def __post_init__(self) -> None:
        """Raises ValueError for what does not go together."""
        if self.state not in ENDED and (self.function or self.error):
            raise ValueError("A function and an error select among tasks that have ended, for example among failed ones.")
        if self.state is State.SUCCEEDED and self.error:
            raise ValueError("Tasks that have succeeded have no error.")

    @property
    def is_everything(self) -> bool:
        """Whether it selects all tasks in the state."""
        return not (self.function or self.queue or self.before or self.error)


class Progress(NamedTuple):
    """How many tasks a verb was right for so far, and how many it left as they are."""

    done: int
    skipped: int


def for_all(  # noqa: PLR0913
    verb: Verb, selection: Selection, *, by: str, why: str = "", batch: int = BATCH, using: str | None = None
) -> Iterator[Progress]:
    """Apply a verb to all tasks of a selection; give the progress after each batch: never, where there is nothing to look at.

    What comes into the state after the beginning is left alone, so this ends however many come. Each task is committed by
    itself: do not call this within a transaction. A task that can't be changed is skipped. Raises django.db.Error when the
    database is gone, full, or locked by others.
    """
    done = skipped = 0
    alias = using or Conf.ORM or "default"
    for ids in matching(selection, batch=batch, using=alias):
        for task_id in ids:
            if _is_right(verb, task_id, by, why, alias):
                done += 1
            else:
                skipped += 1
        yield Progress(done, skipped)


def _is_right(verb: Verb, task_id: str, by: str, why: str, using: str) -> bool:
    came = apply(verb, task_id, by=by, why=why, using=using)
    if isinstance(came, Exception):
        # The text of this error has the task's name, which is no business of the log's.
        said = "its arguments are not kept" if isinstance(came, NotKeptError) else str(came).strip()
        logger.warning("Task %s is left as it is: %s", task_id, said)
    return came in (Came.DONE, Came.ASKED)


def apply(verb: Verb, task_id: str, *, by: str, why: str = "", using: str | None = None) -> Came | Exception:
    """Apply a verb to a task; return what it came to, or the error of a task that can't be changed.

    Raises django.db.Error, or what a receiver of the project has made of it, where no other task would fare better.
    """
    alias = using or Conf.ORM or "default"
    try:
        return verb(task_id, by=by, why=why, using=alias)
    except Exception as error:  # its row is locked, its arguments are not kept, a receiver of the project objects …
        if stops_all(error) or not connections[alias].is_usable():
            raise
        return error


def bounded(selection: Selection, *, using: str | None = None) -> Selection:
    """The selection without what comes into the state from now on, however often it is gone through.

    Raises django.db.Error.
    """
    if selection.state in ENDED:
        return replace(selection, until=selection.until or timezone.now())
    if selection.last_row is not None:
        return selection
    table = table_of(connections[using or Conf.ORM or "default"])
    ((newest,),) = table.run(f"SELECT max(id) FROM {QUEUE_TABLE}")  # noqa: S608
    return replace(selection, last_row=newest or 0)


def matching(selection: Selection, *, batch: int = BATCH, using: str | None = None) -> Iterator[list[str]]:
    """The ids of a selection's tasks, the oldest first; each step looks at so many rows. Raises django.db.Error."""
    alias = using or Conf.ORM or "default"
    selection = bounded(selection, using=alias)
    if selection.state in ENDED:
        return _ended(selection, selection.until or timezone.now(), batch, alias)
    return _queued(selection, selection.last_row or 0, batch, alias)


# In the queue, by the rows' ids.


def _queued(selection: Selection, last_row: int, batch: int, using: str) -> Iterator[list[str]]:
    table = table_of(connections[using])
    last = -1
    while last < last_row:
        tried = f"(SELECT count(*) FROM {ATTEMPTS_TABLE} WHERE row = {QUEUE_TABLE}.id)"  # noqa: S608
        columns = f"id, {table.dialect.as_text('lock')}, {table.dialect.as_text('key')}, substr(payload, 1, 72), {tried}"
        sql = f"SELECT {columns} FROM {QUEUE_TABLE} WHERE id > %s AND id <= %s ORDER BY id LIMIT {batch:d}"  # noqa: S608
        rows = table.run(sql, (last, last_row))
        if not rows:
            return
        last = rows[-1][0]
        now = table.present()
        found = [
            lookup.id_in_place(payload)
            for _, lock, key, payload, tried in rows
            if _fits(selection, table, lock, key, tried, now)
        ]
        yield [task_id for task_id in found if task_id and is_task_id(task_id) and _is_old(selection, task_id)]


def _fits(selection: Selection, table: Table, lock: Any, key: str, tried: int, now: datetime) -> bool:  # noqa: PLR0913, PLR0917
    state = state_of_row(table.read(lock) if lock else None, tried, now)
    return state is selection.state and selection.queue in ("", home_queue(key))


def _is_old(selection: Selection, task_id: str) -> bool:
    """Whether it was queued before; one whose id does not tell was not."""
    if selection.before is None:
        return True
    queued = queued_at(task_id)
    return queued is not None and queued < selection.before


# In the history, by when they ended.


def _ended(selection: Selection, until: datetime, batch: int, using: str) -> Iterator[list[str]]:
    tasks = Task.objects.using(using).filter(success=selection.state is State.SUCCEEDED).order_by("stopped", "pk")
    tasks = tasks.filter(stopped__lt=min(until, selection.before or until))
    columns: dict[str, Any] = {"at": AsText("stopped"), "function": AsText("func"), "queue": AsText("cluster")}
    if selection.error:
        columns["text"], batch = Left(AsText("result"), STORED + 1), min(batch, ERRORS)
    after = Q()
    while rows := list(tasks.filter(after).annotate(**columns).values_list("pk", *columns)[:batch]):
        found = [task_id for task_id, _, func, cluster, *text in rows if _is_of(selection, func, cluster, *text)]
        yield _in_state(selection.state, found, using)
        last, at, *_ = rows[-1]
        # As the text that it is: somebody may have written what Python takes for no moment.
        moment = Value(at, TextField())
        behind = Q(GreaterThan(F("stopped"), moment))
        if isinstance(last, str):  # behind a blob, of which the driver makes bytes, there are none but other blobs
            behind |= Q(pk__gt=last)
        after = Q(GreaterThanOrEqual(F("stopped"), moment)) & behind


def _is_of(selection: Selection, func: str, cluster: str | None, text: str | None = None) -> bool:
    if selection.function and func != selection.function and not func.endswith(f".{selection.function}"):
        return False
    if selection.queue not in ("", cluster):
        return False
    return not selection.error or selection.error.casefold() in str(read_stored(text)).casefold()


def _in_state(state: State, task_ids: list[str], using: str) -> list[str]:
    """Those that are in this state. The history itself does not tell failed and cancelled ones apart."""
    if state is State.SUCCEEDED:
        return task_ids
    requests = Cancellation.objects.using(using).filter(pk__in=task_ids, heeded__isnull=False)
    cancelled = set(requests.values_list("pk", flat=True))
    return [task_id for task_id in task_ids if (task_id in cancelled) == (state is State.CANCELLED)]
