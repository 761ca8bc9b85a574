"""The names of the tables that every task goes through, and their rows as statements take and return them."""

import pickle
from binascii import b2a_base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django_q.models import OrmQ, Task
from django_q.utils import get_func_repr

from durable_queue.models import FailedAttempt, Worker

QUEUE = OrmQ._meta.db_table
HISTORY = Task._meta.db_table
ATTEMPTS = FailedAttempt._meta.db_table
WORKERS = Worker._meta.db_table
CLAIMED_BYTES = 8 << 20  # of payloads that a worker takes at a time, unless the first alone has more
# A claimed row: its id, when it was due, its payload, the attempts at it so far, and how many of them were lost.
Claimed = tuple[int, datetime, str, int, int]


class Claim(NamedTuple):
    """What a worker asks of the queue: at most `limit` of the rows that are due `now`, to be held by a lease of that name."""

    limit: int
    now: datetime
    lease: datetime
    announced: Sequence[int] = ()  # the numbers of rows that are about to be committed: wait for them


LOST = FailedAttempt.Outcome.LOST.value
FIELDS = Task._meta.concrete_fields
LENGTHS = {field.name: field.max_length for field in FIELDS if field.max_length}
_PICKLE = Task._meta.get_field("result").protocol


class HistoryRow(NamedTuple):
    """A row of the history, in the order of its model's fields, so that `Task(*row)` is its object."""

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


def text_of(value: object, length: int) -> str | None:
    """Text that both databases can store: as long as the column, without NUL and lone surrogates."""
    if value is None:
        return None
    text = value if isinstance(value, str) else str(get_func_repr(value))
    if len(text) <= length and text.isprintable():
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:length]


def pickled(value: object) -> str | None:
    """As `picklefield.fields.dbsafe_encode` does it, save for a deep copy that only lookups by value need."""
    if value is None:
        return None
    if type(value) is dict and not value:
        return _NO_KWARGS
    return b2a_base64(pickle.dumps(value, protocol=_PICKLE), newline=False).decode()


_NO_KWARGS = b2a_base64(pickle.dumps({}, protocol=_PICKLE), newline=False).decode()  # of most tasks
