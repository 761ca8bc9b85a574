"""The names of the tables that every task goes through, and their rows as the statements take and return them."""

import pickle
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django_q.models import OrmQ, Task
from django_q.utils import get_func_repr

from durable_queue.models import FailedAttempt, Worker
from durable_queue.task.text import storable

QUEUE_TABLE = OrmQ._meta.db_table
HISTORY_TABLE = Task._meta.db_table
ATTEMPTS_TABLE = FailedAttempt._meta.db_table
WORKERS_TABLE = Worker._meta.db_table
CLAIMED_BYTES = 8 << 20  # of payloads that a worker takes at a time, unless the first alone has more
# A claimed row: its id, when it was due, its payload, the attempts at it so far, and how many of them were lost.
Claimed = tuple[int, datetime, str, int, int]


class Claim(NamedTuple):
    """A worker's request for rows: at most `limit` of those that are due, under the lease with this name.

    `now`: this host's time. Where hosts may differ, the server's own says which delays are over.
    """

    limit: int
    now: datetime
    lease: datetime
    announced: Sequence[int] = ()  # the numbers of announced commits: wait for them first


LOST = FailedAttempt.Outcome.LOST.value
FIELDS = Task._meta.concrete_fields
LENGTHS = {field.name: field.max_length for field in FIELDS if field.max_length}
_PICKLE = Task._meta.get_field("result").protocol


class HistoryRow(NamedTuple):
    """A history row, in the order of the model's fields, and behind them our own columns (`own_columns`)."""

    id: str
    name: str
    func: str
    hook: Any
    args: Any
    kwargs: Any
    result: Any
    group: str | None
    cluster: str | None
    started: datetime
    stopped: datetime
    success: bool
    attempt_count: int
    worker: str | None = None
    queued: datetime | None = None

    def storable(self, moment: Callable[[datetime], Any]) -> tuple[Any, ...]:
        """The values in their order, as both databases can store them. `moment`: makes what the driver takes."""
        return (
            self.id,
            text_of(self.name, LENGTHS["name"]),
            text_of(self.func, LENGTHS["func"]),
            text_of(self.hook, LENGTHS["hook"]),
            pickled(self.args),
            pickled(self.kwargs),
            pickled(self.result),
            text_of(self.group, LENGTHS["group"]),
            text_of(self.cluster, LENGTHS["cluster"]),
            moment(self.started),
            moment(self.stopped),
            self.success,
            self.attempt_count,
            self.worker,
            self.queued and moment(self.queued),
        )

    def as_task(self) -> Task:
        """The model's object."""
        return Task(*self[: len(FIELDS)])


def text_of(value: object, length: int) -> str | None:
    """The value as text that both databases can store: at most `length` characters, without NUL and lone surrogates."""
    if value is None:
        return None
    text = value if isinstance(value, str) else str(get_func_repr(value))
    if len(text) <= length and text.isprintable():
        return text
    return storable(text)[:length]


def pickled(value: object) -> str | None:
    """The value as `picklefield.fields.dbsafe_encode` makes it, without its deep copy: only lookups by value need that."""
    if value is None:
        return None
    if type(value) is dict and not value:
        return _NO_KWARGS
    return b2a_base64(pickle.dumps(value, protocol=_PICKLE), newline=False).decode()


_NO_KWARGS = b2a_base64(pickle.dumps({}, protocol=_PICKLE), newline=False).decode()  # most tasks have none
