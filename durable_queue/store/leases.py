"""A worker's lease on queue rows, and the settlement of the rows that it holds."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django_q.conf import Conf

from durable_queue.models import FailedAttempt, Worker
from durable_queue.states import LEASES
from durable_queue.store.rows import HistoryRow


class LeaseLostError(Exception):
    """Another process took this worker for dead and freed its lease: it has to stop."""


class Row(NamedTuple):
    """A claimed row of the queue."""

    id: int
    due: datetime
    payload: str
    attempts: int = 0  # attempts before this one
    losses: int = 0  # those among them whose worker was lost
    runs_alone: bool = False  # to be given back to those that run alone


class Settlement(NamedTuple):
    """The outcome of an attempt at a row: the task as django-q2 keeps it, with its result, and what follows."""

    row: Row
    task: dict[str, Any]
    attempt: FailedAttempt | None = None  # what went wrong this time
    retry_at: datetime | None = None  # by this host's clock, or when its row was due: at once; None: this was the end of it
    payload: str | None = None  # for the next attempt, where it isn't the row's own: it tells which calls have been made
    refused: bool = False  # it could not be run at all: keep the payload
    cancelled: bool = False  # it has ended since a user has asked for that
    begun: bool = True  # whether there was an attempt; if not, its hook is queued, since no worker has read the task
    worker: str | None = None  # that has run it
    queued: datetime | None = None  # when the task was queued, if its id doesn't tell

    @property
    def saves_result(self) -> bool:
        """Whether the history keeps it (https://django-q2.readthedocs.io/en/master/tasks.html, `save`, `cached`)."""
        if self.task.get("cached"):
            return False
        return bool(not self.task["success"] or self.task.get("save", Conf.SAVE_LIMIT >= 0))

    def history(self) -> HistoryRow:
        """The history row."""
        task = self.task
        return HistoryRow(
            id=task["id"],
            name=task["name"],
            func=task["path"],
            hook=task.get("hook"),
            args=task["args"],
            kwargs=task["kwargs"],
            result=task["result"],
            group=task.get("group"),
            cluster=task.get("cluster"),
            started=task["started"],
            stopped=task["stopped"],
            success=task["success"],
            attempt_count=self.row.attempts + self.begun,
            worker=self.worker,
            queued=self.queued,
        )


@dataclass
class LeaseChange:
    """What one transaction did to a worker's lease: the new lease with its rows, and what it settled of the old one."""

    name: datetime | None = None
    rows: list[Row] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)  # those that the lease before still held

    @property
    def with_hook(self) -> list[HistoryRow]:
        """The tasks that have ended and whose hook is to be called, as the history holds them or would hold them."""
        return [s.history() for s in self.settled if s.task.get("hook") and s.retry_at is None and s.begun]


def alone_queue(queue: str) -> str:
    """The queue of the tasks that run alone, each in a process in which no other task runs, of this queue."""
    return queue if queue.endswith(ALONE) else queue + ALONE


def home_queue(queue: str) -> str:
    """The queue that a task was enqueued in, whether it runs alone or not."""
    return queue.removesuffix(ALONE)


ALONE = ":alone"  # at the end of a queue's name


def new_name(worker: Worker, now: datetime) -> datetime:
    """The name of the lease that a worker takes now: a moment in the far future, like no other lease's."""
    # No other worker's, unless they are a million births apart: its last three digits are those of the worker's id, and
    # a thousand days lie between one thousand of workers and the next. And later than the lease that it follows, whatever
    # the clock does.
    thousands, ones = divmod(worker.id % 1_000_000, 1000)
    name = now + LEASES + timedelta(days=1000 * thousands)
    name = name.replace(microsecond=name.microsecond // 1000 * 1000 + ones)
    return name if worker.lease is None else max(name, worker.lease + timedelta(milliseconds=1))
