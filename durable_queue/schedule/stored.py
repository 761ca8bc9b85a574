"""The rule of a schedule as its row and its state say it, and the state itself."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from durable_queue.models import ScheduleState
from durable_queue.schedule import doubts, moments
from durable_queue.schedule.due import fingerprint
from durable_queue.schedule.rule import Rule
from durable_queue.schedule.zones import zone_named

# Counted anew from the row's `next_run`, as if it had never run.
ANEW: dict[str, Any] = {"anchor": None, "computed": None, "last_run": None}


def rule_of(schedule: Any, zone: str, anchor: datetime) -> Rule:
    """The schedule's rule, in this zone; "" is the default. Raises RuleError if there is none of this name."""
    return Rule(schedule.schedule_type, schedule.minutes, schedule.cron, zone_named(zone), anchor)


def zone_of(schedule: Any, state: ScheduleState | None) -> str:
    """The name of its zone, "" for the default: what `schedule.zone` was set to before a save, else what is stored."""
    chosen = schedule.__dict__.get("zone")
    return str(chosen if chosen is not None else state.zone if state else "")


def anchor_of(state: ScheduleState | None, next_run: datetime) -> datetime:
    """The moment whose time of day and day of the month it keeps: `next_run` itself if somebody has set it."""
    return state.anchor if state and state.anchor and state.computed in (None, next_run) else next_run


def state_of(pk: int | None, using: str) -> ScheduleState | None:
    """The state of a schedule; None: it has the defaults, or our migration has yet to run. Raises django.db.Error."""
    return None if pk is None else states_of([pk], using).get(pk)


def states_of(ids: Collection[int], using: str) -> dict[int, ScheduleState]:
    """The states of schedules, by their ids, as far as they have any. Raises django.db.Error."""
    try:
        with transaction.atomic(using=using):  # a statement that fails costs the caller's transaction nothing
            return ScheduleState.objects.using(using).in_bulk(ids)
    except DatabaseError:
        if has_table(using):
            raise
        return {}


def change_state(pk: int, changes: dict[str, Any], using: str) -> None:
    """Change a schedule's state, or make it; not before our migration has run. Raises django.db.Error."""
    try:
        with transaction.atomic(using=using):
            ScheduleState.objects.using(using).update_or_create(schedule_id=pk, defaults=changes)
    except DatabaseError:
        if has_table(using):
            raise


def has_table(using: str) -> bool:
    """Whether our migration has run in this database. Raises django.db.Error."""
    return ScheduleState._meta.db_table in connections[using].introspection.table_names()


def judgement(schedule: Any) -> dict[str, Any]:
    """What the state says of a schedule that was edited: no problem, or the doubt that there is."""
    doubt = doubts.doubt_about(schedule)
    found = (doubt, doubts.fingerprint(schedule), timezone.now()) if doubt else ("", "", None)
    return dict(zip(("problem", "problem_fingerprint", "problem_at"), found, strict=True))


def problem_of(schedule: Any, state: ScheduleState | None) -> str:
    """Why a schedule from `with_text` can't be run, as far as that is known and it was not edited since; "" for nothing."""
    if not state or not state.problem:
        return ""
    seen = moments.read(schedule.next_run_text) or schedule.next_run_text
    known = (doubts.fingerprint(schedule), fingerprint(schedule, zone=state.zone, next_run=seen))
    return state.problem if state.problem_fingerprint in known else ""
