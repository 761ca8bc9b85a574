"""The statements of the scheduler: which schedules are due, claim one for a run, note what is wrong with one.

Rows are read as text, and moments with them: one that neither Python nor the driver can hold (infinity, years before Christ,
garbage on SQLite) then hides no other row. The text also makes the claim exact, to the last digit.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import Error as DatabaseError
from django.db import OperationalError, transaction
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import Schedule

from durable_queue.models import ScheduleState
from durable_queue.schedule.due import Due, Unreadable
from durable_queue.store import lock_waits
from durable_queue.store.broker import Broker
from durable_queue.store.rows import text_of
from durable_queue.store.table import Table

SCHEDULES, STATES = Schedule._meta.db_table, ScheduleState._meta.db_table
FIRST = timedelta(days=366)  # how long ago a task's place in the queue is at most, however long ago it was due
LONGEST_PROBLEM = 1000  # characters

DOUBT = "doubt:"  # how the fingerprint of a problem begins that is one in code only: a function that is unknown as yet …

_OF_RUN = ("anchor", "computed", "last_run")
_OF_PROBLEM = ("problem", "problem_fingerprint", "problem_at")
_PLAIN = ("name", "func", "hook", "args", "kwargs", "schedule_type", "minutes", "repeats", "cron", "task", "cluster")
_OF_SCHEDULE = ("id", *_PLAIN, "intended_date_kwarg")
_OF_STATE = ("zone", "problem", "problem_fingerprint")
_COLUMNS = ", ".join(
    (
        *(f"schedule.{name}" for name in _OF_SCHEDULE),
        *(f"coalesce(state.{name}, '')" for name in _OF_STATE),
        *(f"CAST({moment} AS TEXT)" for moment in ("schedule.next_run", *(f"state.{name}" for name in _OF_RUN))),
    )
)
_JOINED = f"{SCHEDULES} AS schedule LEFT JOIN {STATES} AS state ON state.schedule_id = schedule.id"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A task of a schedule, ready to be enqueued."""

    moment: datetime  # since when it is due
    task_id: str
    payload: str
    queue: str


@dataclass(frozen=True, kw_only=True)
class ScheduleClaim:
    """What a due schedule becomes, if it is still as it was seen."""

    due: Due
    runs: Sequence[Run]
    next_run: datetime | None
    repeats: int
    anchor: datetime | None


class Schedules:
    """The schedules of one queue. Each method raises django.db.Error."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._using = broker.using

    @property
    def _table(self) -> Table:
        return self._broker.table

    def now(self) -> datetime:
        """The present moment, by the clock that all hosts share."""
        table = self._table
        return timezone.now() if table.has_one_writer else table.aware(table.run("SELECT statement_timestamp()")[0][0])

    def due(self, now: datetime) -> list[int]:
        """The ids of the schedules that are due, those first that have been due for longest."""
        where, values = self._ours("<=", now)
        return [
            int(row)
            for (row,) in self._table.run(
                f"SELECT schedule.id FROM {_JOINED} WHERE {where} ORDER BY schedule.next_run, schedule.id",  # noqa: S608
                values,
            )
        ]

    def until_next(self, now: datetime) -> float | None:
        """Seconds until the next schedule is due; None if none is, or not at a moment that can be computed with."""
        where, values = self._ours(">", now)
        sql = f"SELECT CAST(schedule.next_run AS TEXT) FROM {_JOINED} WHERE {where} ORDER BY schedule.next_run LIMIT 1"  # noqa: S608
        rows = self._table.run(sql, values)
        moment = self._moment(rows[0][0]) if rows else None
        return (moment - now).total_seconds() if moment else None

    def _ours(self, compared: str, now: datetime) -> tuple[str, tuple[Any, ...]]:
        """The condition that a schedule is one of this queue's, is neither paused nor at its end, and when it is due."""
        queue = self._broker.queue
        # As in django-q2: those that name no cluster are run by the cluster with the name of the site.
        without = " OR schedule.cluster IS NULL OR schedule.cluster = ''" if queue == Conf.PREFIX else ""
        where = f"schedule.next_run {compared} %s AND schedule.repeats <> 0 AND state.paused_at IS NULL"
        return f"{where} AND (schedule.cluster = %s{without})", (self._table.moment(now), queue)

    @contextmanager
    def reserved(self, ids: Sequence[int]) -> Iterator[Sequence[int]]:
        """Those of these schedules that nobody else is about to change, until the end of the `with`, whatever is claimed there.

        Of several clusters, one then prepares each run, and tells receivers of it. SQLite has one host, and one writer: there
        nobody may keep the others from writing for so long.
        """
        if self._table.has_one_writer:
            yield ids
            return
        with transaction.atomic(using=self._using):
            lock_waits.bound(self._table)
            free = self._free(ids)
            yield [row for row in ids if row in free]

    def read(self, ids: Sequence[int], due_at: datetime | None = None) -> list[Due | Unreadable]:
        """The rows of these schedules, in this order; one that was deleted meanwhile is left out.

        `due_at`: those only that are still due then. Others may have run them meanwhile, moved them or paused them.
        """
        table = self._table
        among, value = table.among(ids)
        still_due, values = self._ours("<=", due_at) if due_at else ("1 = 1", ())
        sql = f"SELECT {_COLUMNS} FROM {_JOINED} WHERE schedule.id {among} AND {still_due}"  # noqa: S608
        try:
            with transaction.atomic(using=self._using) if self._broker.database.in_atomic_block else nullcontext():
                found = {row[0]: self._due(row) for row in table.run(sql, (value, *values))}
        except DatabaseError as error:
            if self.is_lost():
                raise
            if len(ids) == 1:
                return [Unreadable(ids[0], f"Its row can't be read: {error}")]
            return [row for one in ids for row in self.read([one], due_at)]  # the driver decodes all rows, or none
        return [found[row] for row in ids if row in found]

    def _due(self, row: Sequence[Any]) -> Due:
        names = (*_OF_SCHEDULE, *_OF_STATE)
        seen, *moments = row[len(names) :]
        anchor, computed, last_run = map(self._moment, moments)
        values = dict(zip(names, row, strict=False))
        return Due(**values, seen=seen, next_run=self._moment(seen), anchor=anchor, computed=computed, last_run=last_run)

    def _moment(self, text: str | None) -> datetime | None:
        try:
            return self._table.aware(text).astimezone(UTC) if text else None
        except (ValueError, OverflowError):  # its offset may lead out of what Python has
            return None

    def is_lost(self) -> bool:
        """After an error: whether it was the connection's, and no row's."""
        return self._broker.database.connection is None or not self._broker.database.is_usable()

    def concerns_all(self, error: Exception) -> bool:
        """Whether it is no single schedule's error: the connection is lost, or nobody can write to the database."""
        return self.is_lost() or (self._table.has_one_writer and isinstance(error, OperationalError))

    # Claims.

    def claim(self, claims: Sequence[ScheduleClaim]) -> list[ScheduleClaim]:
        """In ONE transaction: move each schedule on and enqueue its tasks, if it is as it was seen; return those.

        Others may claim the same schedules: the row count of its UPDATE says who won.
        """
        first = timezone.now() - FIRST
        with self._table.turn(), transaction.atomic(using=self._using):
            won = [claim for claim in claims if self._move_on(claim)]
            for claim in won:
                for run in claim.runs:
                    Broker(run.queue, self._using).enqueue_all([run.payload], as_they_are=True, due=max(run.moment, first))
            self._keep_states([claim for claim in won if claim.runs])
        return won

    def _free(self, ids: Collection[int]) -> set[int]:
        """Those that no other transaction has locked, neither the schedule nor its state: nobody waits for a stranger."""
        if self._table.has_one_writer:
            return set(ids)
        schedules = Schedule.objects.using(self._using).filter(pk__in=ids).order_by()
        states = ScheduleState.objects.using(self._using).filter(pk__in=ids)
        free, free_states = (
            set(rows.select_for_update(skip_locked=True, no_key=True).values_list("pk", flat=True))
            for rows in (schedules, states)
        )
        return free - (set(states.values_list("pk", flat=True)) - free_states)

    def _move_on(self, claim: ScheduleClaim) -> bool:
        due, moment = claim.due, claim.next_run and self._table.moment(claim.next_run)
        sql = f"""
            UPDATE {SCHEDULES} SET next_run = %s, repeats = %s, task = %s
            WHERE id = %s AND next_run = %s AND repeats = %s AND repeats <> 0 RETURNING id
        """  # noqa: S608
        task = claim.runs[-1].task_id if claim.runs else due.task
        return bool(self._table.run(sql, (moment, claim.repeats, task, due.id, due.seen, due.repeats)))

    def _keep_states(self, claims: Sequence[ScheduleClaim]) -> None:
        """What is known to be wrong is over, unless it is no more than a doubt, which keeps no schedule from running."""
        doubted = [claim for claim in claims if claim.due.problem_fingerprint.startswith(DOUBT)]
        others = [claim for claim in claims if claim not in doubted]
        for some, fields in ((doubted, _OF_RUN), (others, (*_OF_RUN, *_OF_PROBLEM))):
            states = [
                ScheduleState(
                    schedule_id=claim.due.id, anchor=claim.anchor, computed=claim.next_run, last_run=claim.runs[-1].moment
                )
                for claim in sorted(some, key=lambda claim: claim.due.id)
            ]
            self._keep(states, fields)

    def _keep(self, states: Sequence[ScheduleState], fields: Sequence[str]) -> None:
        ScheduleState.objects.using(self._using).bulk_create(
            states, update_conflicts=True, unique_fields=["schedule"], update_fields=list(fields)
        )

    # Broken ones.

    def note_problems(self, problems: Sequence[tuple[int, str, str]]) -> set[int]:
        """Note what is wrong with schedules, each as (id, text, fingerprint); return the ids of those that others have locked.

        Only columns that tell of problems are written: the others are what the next run is computed from.
        """
        with self._table.turn(), transaction.atomic(using=self._using):
            lock_waits.bound(self._table)
            schedules = Schedule.objects.using(self._using).filter(pk__in=[row for row, *_ in problems])
            there = set(schedules.order_by().values_list("pk", flat=True))
            free = self._free(there) & there
            states = [
                ScheduleState(schedule_id=row, problem=text, problem_fingerprint=fingerprint, problem_at=timezone.now())
                for row, text, fingerprint in sorted(problems)
                if row in free
            ]
            self._keep(states, _OF_PROBLEM)
        return there - free


def as_problem(problem: str) -> str:
    """A text as the table of states can keep it."""
    return text_of(problem, LONGEST_PROBLEM) or ""
