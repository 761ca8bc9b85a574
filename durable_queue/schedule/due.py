"""A schedule that is due: its row as it was read, what to run now, and when it runs next.

Nothing here asks the database. Whatever is wrong with a row concerns this row alone.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django_q.conf import Conf
from django_q.models import Schedule

from durable_queue.schedule.rule import Rule, check, next_after

MOST_MISSED = 100  # runs of one schedule that are made up for at a time
# What a rule and a task are made of: a schedule that is found broken is judged anew once one of these has changed.
JUDGED = ("func", "hook", "args", "kwargs", "schedule_type", "minutes", "repeats", "cron", "cluster", "intended_date_kwarg")


class BrokenError(ValueError):
    """The schedule can't be run. The text says why."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """A schedule's row, and its row of ours; moments as datetimes (None: there is none, or it can't be read)."""

    id: int
    name: str | None
    func: str
    hook: str | None
    args: str | None
    kwargs: str | None
    schedule_type: str
    minutes: Any  # a raw row on SQLite may hold anything
    repeats: Any
    seen: str  # its `next_run`, as the database's text
    next_run: datetime | None
    cron: str | None
    task: str | None  # the id of its last task
    cluster: str | None
    intended_date_kwarg: str | None
    zone: str = ""
    anchor: datetime | None = None
    computed: datetime | None = None
    last_run: datetime | None = None
    problem: str = ""
    problem_fingerprint: str = ""
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", fingerprint(self, zone=self.zone, next_run=self.next_run or self.seen))

    def __str__(self) -> str:
        return f"{self.id} ({self.name or self.func!r:.100})"


@dataclass(frozen=True)
class Unreadable:
    """A schedule whose row the driver can't read."""

    id: int
    problem: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of a due schedule."""

    moments: tuple[datetime, ...]  # to run now, the oldest first; empty: its `next_run` is stale, and was run already
    next_run: datetime | None  # None: never again
    repeats: int
    anchor: datetime | None


def zone_name(own: str = "") -> str:
    """The name of the zone whose wall clock a schedule keeps: its own, else the installation's."""
    return own or getattr(settings, "NOTIFIER_TIME_ZONE", "") or Conf.TIME_ZONE or settings.TIME_ZONE


def fingerprint(schedule: object, *, zone: str, next_run: datetime | str | None) -> str:
    """A digest of all that a schedule is judged by. `schedule`: has the attributes of django-q2's model. `zone`: its own."""
    moment = next_run.astimezone(UTC).isoformat() if isinstance(next_run, datetime) else next_run
    judged = [getattr(schedule, name) or None for name in JUDGED]
    return hashlib.sha256(repr((judged, zone_name(zone), moment)).encode("utf-8", "backslashreplace")).hexdigest()


def plan(due: Due, now: datetime) -> Plan:
    """What to run now, and when to run next; in the same time however long ago it was due. Raises BrokenError, RuleError."""
    if due.next_run is None:
        raise BrokenError(f"Its next run is no moment that can be computed with: {due.seen!r:.60}")
    if not isinstance(due.repeats, int):
        raise BrokenError(f"Its repeats are no number: {due.repeats!r:.60}")
    if due.schedule_type == Schedule.ONCE:
        return Plan(moments=(due.next_run,), next_run=due.next_run if due.repeats > 0 else None, repeats=0, anchor=due.anchor)
    if _is_stale(due):
        return Plan(moments=(), next_run=due.computed, repeats=due.repeats, anchor=due.anchor)
    rule = _rule(due, due.next_run)
    moments, following = [due.next_run], next_after(rule, due.next_run)
    if Conf.CATCH_UP:
        most = min(MOST_MISSED, due.repeats if due.repeats > 0 else MOST_MISSED)
        while following and following <= now and len(moments) < most:
            moments.append(following)
            following = next_after(rule, following)
    elif following and following <= now:
        following = next_after(rule, now)
    repeats = max(0, due.repeats - len(moments)) if due.repeats > 0 else -1
    return Plan(moments=tuple(moments), next_run=following, repeats=repeats, anchor=rule.anchor)


def _rule(due: Due, next_run: datetime) -> Rule:
    """Raises BrokenError, RuleError."""
    check(due.schedule_type, due.minutes, due.cron)
    name = zone_name(due.zone)
    try:
        zone = ZoneInfo(name)
    except Exception as error:  # a name may be no key, a folder, a file that is none …
        raise BrokenError(f"There is no time zone {name!r:.100}") from error
    return Rule(due.schedule_type, due.minutes, due.cron, zone, _anchor(due, next_run))


def _anchor(due: Due, next_run: datetime) -> datetime:
    """Who moves `next_run` moves the anchor. Another scheduler, which has run what we computed, leaves it."""
    if due.anchor is None or (due.computed not in (None, next_run) and not _was_run_by_another(due, next_run)):
        return next_run
    return due.anchor


def _was_run_by_another(due: Due, next_run: datetime) -> bool:
    """Whether another scheduler has run the moment that we computed: the last task was made after it.

    Ids of tasks tell when they were made (RFC 9562, section 5.7), whoever makes them: `pre_enqueue` sees to that.
    """
    if due.computed is None or next_run < due.computed:
        return False
    try:
        made = int((due.task or "")[:12], 16) / 1000
    except ValueError:
        return False
    return made >= due.computed.timestamp()


def _is_stale(due: Due) -> bool:
    """Whether somebody has put back, with an old copy of the row, the very moment that was run last."""
    return (
        due.computed is not None and due.next_run is not None and due.next_run == due.last_run and due.next_run < due.computed
    )
