"""Schedules for the tests of the scheduler: rows as any code may leave them, and what has become of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.signals import pre_enqueue

from durable_queue.models import ScheduleState
from durable_queue.store.broker import Broker
from durable_queue.task import signing
from durable_queue.upkeep.life import Life
from durable_queue.upkeep.schedules import DueSchedules

FUNC = "tests.support.promised_tasks.add"


def add(name: str, *, ago: timedelta = timedelta(seconds=1), **fields: Any) -> int:
    """A schedule in the table, whatever `save` says to it: hourly and due, unless the fields say otherwise. Returns its id."""
    values = {"func": FUNC, "schedule_type": Schedule.HOURLY, "next_run": timezone.now() - ago} | fields
    (made,) = Schedule.objects.bulk_create([Schedule(name=name, **values)])
    return int(made.pk)


def write(schedule: int, column: str, value: Any) -> None:
    """Write a column as raw SQL may, past all of Django."""
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE django_q_schedule SET {column} = %s WHERE id = %s", [value, schedule])  # noqa: S608


def scheduler() -> DueSchedules:
    """The scheduler of the tests' queue, as a new upkeep process has it."""
    return DueSchedules(Broker(), Life())


def run_all(due: DueSchedules | None = None) -> None:
    """Look as long as anything is claimed."""
    due = due or scheduler()
    while due.run() == 0.0:
        pass


def tasks() -> list[dict[str, Any]]:
    """The queued tasks, in the order in which they are to run."""
    return [signing.loads(row.payload) for row in OrmQ.objects.order_by("lock", "id")]


def groups() -> list[str]:
    """The groups of the queued tasks: the names of their schedules."""
    return sorted(task["group"] for task in tasks())


def state(schedule: int) -> ScheduleState:
    """What our table says of it."""
    return ScheduleState.objects.get(pk=schedule)


def next_run(schedule: int) -> datetime:
    """When it runs next."""
    moment: datetime = Schedule.objects.values_list("next_run", flat=True).get(pk=schedule)
    return moment


@contextmanager
def receiver(receive: Any) -> Iterator[None]:
    """A project's receiver of `pre_enqueue`: it is given each task."""

    def received(sender: str, task: dict[str, Any], **_: object) -> None:
        receive(task)

    pre_enqueue.connect(received)
    try:
        yield
    finally:
        pre_enqueue.disconnect(received)
