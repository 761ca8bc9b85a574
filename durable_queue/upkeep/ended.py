"""Schedules that have ended: delete those that run once, as django-q2 does, by the ORM, so that a project hears of it.

Its foreign keys hold and its receivers are called; what goes wrong there concerns this schedule alone.
"""

import time

from django.db import connections, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django_q.conf import logger
from django_q.models import Schedule

from durable_queue.models import ScheduleState
from durable_queue.store import lock_waits
from durable_queue.store.broker import Broker
from durable_queue.store.databases import discard, table_of
from durable_queue.store.schedules import Schedules, as_problem
from durable_queue.upkeep.life import Life

LOOK = 1.0  # seconds between two looks
BATCH = 100
TRIED_AGAIN = 60.0  # seconds until the deletion of one that could not be deleted is tried again
ORPHANS = 60.0  # seconds between two looks for what is left of schedules that others have deleted
DEADLY = "It has run. The upkeep process was killed twice in a row while it deleted it, and leaves it alone"


class Ended:
    """Deletes the ended schedules of one queue."""

    def __init__(self, broker: Broker, life: Life) -> None:
        self._using = broker.using
        self._schedules = Schedules(broker)
        self._life = life
        self._again: dict[int, float] = {}  # by the id: when (monotonic) it is tried again
        self._orphans = 0.0

    def delete(self) -> float:
        """Delete those that have run once; return the seconds until the next look. Raises django.db.Error."""
        now = time.monotonic()
        self._again = {row: at for row, at in self._again.items() if at > now}
        found = self._ended().exclude(pk__in=list(self._again)).values_list("pk", flat=True)
        for row in list(found[:BATCH]):
            self._delete(row)
        if now >= self._orphans:
            self._orphans = now + ORPHANS
            orphans = ScheduleState.objects.using(self._using).exclude(Exists(Schedule.objects.filter(pk=OuterRef("pk"))))
            if orphans.exists():
                orphans._raw_delete(self._using)
        return LOOK

    def _ended(self) -> "QuerySet[Schedule]":
        """Neither a next run nor repeats are left, and it was run: `plan` and `Schedules.claim` leave them so."""
        has_run = ScheduleState.objects.filter(pk=OuterRef("pk"), last_run__isnull=False)
        ended = {"schedule_type": Schedule.ONCE, "repeats": 0, "next_run": None}
        return Schedule.objects.using(self._using).filter(Exists(has_run), **ended).order_by()  # type: ignore[no-any-return]

    def _delete(self, row: int) -> None:
        at = f"deletion of schedule {row}"
        state = ScheduleState.objects.using(self._using).filter(pk=row).first()
        if state is None:  # another cluster has deleted it
            return
        if self._life.is_deadly(at) or state.problem == DEADLY:
            self._life.forget(at)
            self._leave(row, DEADLY, said=state.problem)
            return
        has_begun, before = False, _mode(self._using)
        try:
            with transaction.atomic(using=self._using):
                lock_waits.bound(table_of(connections[self._using]))
                has_begun = True
                # One that another has locked waits for the next look.
                for schedule in self._ended().filter(pk=row).select_for_update(skip_locked=True):
                    with self._life.at(at):
                        schedule.delete()
        except BaseException as error:  # a receiver may call sys.exit()
            discard(self._using)
            if not has_begun:
                raise
            self._leave(row, f"It has run, and can't be deleted: {type(error).__name__}: {error}", said=state.problem)
        if _mode(self._using) != before:
            discard(self._using)  # a receiver has left it so

    def _leave(self, row: int, problem: str, *, said: str) -> None:
        self._again[row] = time.monotonic() + TRIED_AGAIN
        problem = as_problem(problem)
        if problem != said:
            logger.error("Schedule %d: %s", row, problem)
            for read in self._schedules.read([row]):
                self._schedules.note_problems([(row, problem, getattr(read, "fingerprint", ""))])


def _mode(using: str) -> tuple[bool, bool]:
    """Whether the thread's connection commits by itself, and whether it is within an `atomic`."""
    connection = connections[using]
    return connection.get_autocommit(), connection.in_atomic_block
