"""A verb for all tasks that match a filter: step by step, each task in a transaction of its own.

Whoever stops this anywhere leaves no half-done task. No step reads more than a batch of rows, each by an index.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from durable_queue.store.databases import table_of
from durable_queue.store.leases import home_queue
from durable_queue.store.rows import ATTEMPTS_TABLE, QUEUE_TABLE
from durable_queue.store.table import Table
from durable_queue.task.identifiers import is_task_id, queued_at
from durable_queue.task.preview import STORED, read_stored
from durable_queue.task.stored_text import AsText
from durable_queue.verbs import Came

logger = logging.getLogger("durable_queue.verbs")

BATCH = 500  # rows
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
    """Apply a verb to all tasks of a selection; give the progress after each batch, and once where there is nothing to do.

    What comes into the state after the beginning is left alone, so this ends however many come. Each task is committed by
    itself: do not call this within a transaction. A task that can't be changed is skipped. Raises django.db.Error when the
    database is gone.
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
    try:
        return verb(task_id, by=by, why=why, using=using) in (Came.DONE, Came.ASKED)
    except Exception as error:  # its row is locked, its arguments are not kept, a receiver of the project objects …
        if not connections[using].is_usable():
            raise
        logger.warning("Task %s is left as it is: %s", task_id, str(error).strip())
        return False


def matching(selection: Selection, *, batch: int = BATCH, using: str | None = None) -> Iterator[list[str]]:
    """The ids of a selection's tasks, the oldest first; each step looks at so many rows. Raises django.db.Error."""
    alias = using or Conf.ORM or "default"
    return _ended(selection, batch, alias) if selection.state in ENDED else _queued(selection, batch, alias)


# In the queue, by the rows' ids.


def _queued(selection: Selection, batch: int, using: str) -> Iterator[list[str]]:
    table = table_of(connections[using])
    ((newest,),) = table.run(f"SELECT max(id) FROM {QUEUE_TABLE}")  # noqa: S608
    last = -1
    while newest is not None and last < newest:
        tried = f"(SELECT count(*) FROM {ATTEMPTS_TABLE} WHERE row = {QUEUE_TABLE}.id)"  # noqa: S608
        columns = f"id, {table.dialect.as_text('lock')}, {table.dialect.as_text('key')}, substr(payload, 1, 72), {tried}"
        sql = f"SELECT {columns} FROM {QUEUE_TABLE} WHERE id > %s AND id <= %s ORDER BY id LIMIT {batch:d}"  # noqa: S608
        rows = table.run(sql, (last, newest))
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


def _ended(selection: Selection, batch: int, using: str) -> Iterator[list[str]]:
    tasks = Task.objects.using(using).filter(success=selection.state is State.SUCCEEDED).order_by("stopped", "pk")
    now = timezone.now()
    tasks = tasks.filter(stopped__lt=min(now, selection.before or now))
    columns: dict[str, Any] = {"at": AsText("stopped"), "function": AsText("func"), "queue": AsText("cluster")}
    if selection.error:
        columns["text"] = Left(AsText("result"), STORED + 1)
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
