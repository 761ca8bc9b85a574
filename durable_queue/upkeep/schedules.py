"""Schedules: enqueue their tasks when they are due. Each is judged for itself, whatever is wrong with the others."""

import time
from collections.abc import Sequence
from datetime import datetime

from django.db import OperationalError
from django_q.conf import Conf, logger
from django_q.humanhash import humanize, uuid

from durable_queue.intake import packaging
from durable_queue.schedule.arguments import read_call
from durable_queue.schedule.due import BrokenError, Due, Unreadable, plan
from durable_queue.store.broker import Broker
from durable_queue.store.schedules import Run, ScheduleClaim, Schedules, as_problem
from durable_queue.upkeep.aside import Aside
from durable_queue.upkeep.life import Life

LOOK = 1.0  # seconds between two looks, unless a schedule is due before
SOON = 0.05  # … and while a job is aside
BATCH = 100  # schedules in one transaction
TRIED_AGAIN = 60.0  # seconds until a broken one is tried again: what is wrong may not be its row, but its surroundings
LOCKED = 5.0  # … and one whose claim waited too long for a lock
MOST_WAITS = 2  # claims of a batch that may do so: the others have waited for them
DEADLY = "The upkeep process was killed at it twice in a row. It is left alone until it is changed"
UNREADABLE = "unreadable"  # stands for the fingerprint of a row that can't be read

Judged = tuple[int, str]  # a schedule's id, and the fingerprint of all that it is judged by


class DueSchedules:
    """Runs the due schedules of one queue."""

    def __init__(self, broker: Broker, life: Life) -> None:
        self._schedules = Schedules(broker)
        self._queue = broker.queue
        self._life = life
        self._aside: Aside[Judged, tuple[Due, datetime], ScheduleClaim | BaseException] = Aside(
            self._prepare, goes_on=life.go_on
        )
        self._again: dict[Judged, float] = {}  # until when (monotonic) what was judged is left out
        self._named: set[Judged] = set()  # the broken ones that the log has named
        self._problems: dict[int, tuple[str, str]] = {}  # by the id: text and fingerprint, still to be noted

    def run(self) -> float:
        """Enqueue the tasks of all that are due; return the seconds until the next look. Raises django.db.Error."""
        if not Conf.SCHEDULER:
            return 3600.0
        now = self._schedules.now()
        self._again = {judged: until for judged, until in self._again.items() if until > time.monotonic()}
        due = self._schedules.due(now)
        claimed = 0
        try:
            for start in range(0, len(due), BATCH):
                with self._schedules.reserved(due[start : start + BATCH]) as free:
                    claimed += self._run_some(free, now)
        finally:
            self._note_problems()
        if claimed:
            return 0.0  # more may be due by now
        soon = self._schedules.until_next(now)
        return min(SOON if self._aside.is_busy else LOOK, LOOK if soon is None else max(0.0, soon))

    def _run_some(self, ids: Sequence[int], now: datetime) -> int:
        jobs: dict[Judged, tuple[Due, datetime]] = {}
        for row in self._schedules.read(ids, due_at=now):
            if isinstance(row, Unreadable):
                if (row.id, UNREADABLE) not in self._again:
                    self._find_broken(row.id, UNREADABLE, row.problem, stored=("", ""))
            elif not self._is_left_alone(row):
                jobs[row.id, row.fingerprint] = (row, now)
        claims = []
        for judged, result in self._aside.do_all(jobs).items():
            row = jobs[judged][0]
            if isinstance(result, ScheduleClaim):
                claims.append(result)
            else:
                self._find_wrong(row, result)
        return self._claim(claims) if claims else 0

    def _is_left_alone(self, row: Due) -> bool:
        if self._life.is_deadly(at := _at(row)):
            self._life.forget(at)
            self._find_wrong(row, BrokenError(DEADLY))
        deadly = (DEADLY, row.fingerprint)
        if deadly in ((row.problem, row.problem_fingerprint), self._problems.get(row.id)):
            return True
        return self._again.get((row.id, row.fingerprint), 0.0) > time.monotonic()

    # A job of its own, which runs the project's code.

    def _prepare(self, job: tuple[Due, datetime]) -> ScheduleClaim | BaseException:
        due, now = job
        with self._life.at(_at(due)):
            try:
                return self._plan_and_package(due, now)
            except BaseException as error:  # a receiver may call sys.exit()
                return error

    def _plan_and_package(self, due: Due, now: datetime) -> ScheduleClaim:
        planned = plan(due, now)
        runs = [self._package(due, moment, now) for moment in planned.moments]
        return ScheduleClaim(due=due, runs=runs, next_run=planned.next_run, repeats=planned.repeats, anchor=planned.anchor)

    def _package(self, due: Due, moment: datetime, now: datetime) -> Run:
        """The task, as django-q2's scheduler makes it."""
        call = read_call(due.args, due.kwargs)
        kwargs = call.kwargs | ({due.intended_date_kwarg: moment.isoformat()} if due.intended_date_kwarg else {})
        options = {"group": due.name or due.id} | call.options | ({"hook": due.hook} if due.hook else {})
        queue = due.cluster or options.get("cluster") or self._queue
        name = call.name or uuid()[0]
        options["cluster"] = queue
        packed = packaging.packed(due.func, call.args, kwargs, name=name, options=options, queued=now)
        return Run(moment=moment, task_id=packed.id, payload=packed.payload, queue=str(queue))

    # Claims.

    def _claim(self, claims: Sequence[ScheduleClaim]) -> int:
        try:
            return self._tell(self._schedules.claim(claims))
        except Exception as error:
            if self._schedules.concerns_all(error):
                raise
        claimed = waits = 0
        for claim in claims:
            try:
                claimed += self._tell(self._schedules.claim([claim]))
            except OperationalError as error:  # on PostgreSQL: it waited for a lock, or for longer than it may
                waits += 1
                self._again[claim.due.id, claim.due.fingerprint] = time.monotonic() + LOCKED
                if self._schedules.concerns_all(error):
                    raise
                if waits > MOST_WAITS:
                    break  # the others come with the next look; what is claimed stays so
            except Exception as error:
                if self._schedules.concerns_all(error):
                    raise
                self._find_wrong(claim.due, error)
        return claimed

    def _tell(self, claimed: Sequence[ScheduleClaim]) -> int:
        for claim in claimed:
            for run in claim.runs:
                logger.info("Schedule %s: task %s is enqueued", claim.due, humanize(run.task_id))
        return len(claimed)

    # Broken ones.

    def _find_wrong(self, row: Due, error: BaseException) -> None:
        is_own = isinstance(error, ValueError) and type(error).__module__.startswith("durable_queue.")
        text = _text(error) if is_own else f"{type(error).__name__}: {_text(error)}"
        self._find_broken(row.id, row.fingerprint, text, stored=(row.problem, row.problem_fingerprint), name=str(row))

    def _find_broken(self, row: int, fingerprint: str, text: str, *, stored: tuple[str, str], name: str = "") -> None:
        text = as_problem(text)
        self._again[row, fingerprint] = time.monotonic() + TRIED_AGAIN
        if (text, fingerprint) != stored:
            self._problems[row] = (text, fingerprint)
        if fingerprint != stored[1] and (row, fingerprint) not in self._named:
            self._named.add((row, fingerprint))
            logger.error("Schedule %s can't be run: %s", name or row, text)

    def _note_problems(self) -> None:
        """Note them, a batch at a time. What can't be noted now is noted at the next look."""
        rows = [(row, text, fingerprint) for row, (text, fingerprint) in self._problems.items()]
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            locked = self._schedules.note_problems(batch)
            for row, *_ in batch:
                if row not in locked:
                    del self._problems[row]


def _text(error: BaseException) -> str:
    try:
        return str(error).strip()
    except Exception:  # the project's own
        return "it has no text"


def _at(row: Due) -> str:
    return f"schedule {row.id}"
