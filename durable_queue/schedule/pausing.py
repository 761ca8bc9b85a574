"""Pause and resume schedules. A paused one stays as it is; the runs that it misses are not made up for."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone
from django_q.conf import logger
from django_q.models import Schedule

from durable_queue.models import ScheduleState
from durable_queue.schedule import rule
from durable_queue.schedule.moments import LATEST, as_field, readable, with_text
from durable_queue.schedule.rule import RuleError
from durable_queue.schedule.stored import anchor_of, rule_of

NAME_LENGTH = ScheduleState._meta.get_field("paused_by").max_length or 150


def pause(ids: Sequence[int], *, by: str, using: str) -> int:
    """Pause schedules; return how many this call paused. `by`: who does it. Raises django.db.Error."""
    with transaction.atomic(using=using):
        # The rows before their states, as in `resume`.
        there = Schedule.objects.using(using).filter(pk__in=ids).order_by("pk").select_for_update().values_list("pk", flat=True)
        states = ScheduleState.objects.using(using)
        states.bulk_create([ScheduleState(schedule_id=pk) for pk in there], ignore_conflicts=True)
        running = states.filter(pk__in=list(there), paused_at=None)
        paused = running.update(paused_at=timezone.now(), paused_by=by[:NAME_LENGTH])
    logger.info("%d schedules of %s were paused by %s", paused, list(ids), by)
    return paused


def resume(ids: Sequence[int], *, by: str, using: str) -> int:
    """Resume schedules; return how many this call resumed. One that runs once, and has missed it, runs at once.

    `by`: who does it. Raises django.db.Error.
    """
    resumed = 0
    with transaction.atomic(using=using):
        # The rows before their states, as a save locks them: two that each hold what the other wants would wait for ever.
        list(Schedule.objects.using(using).filter(pk__in=ids).order_by("pk").select_for_update().values_list("pk"))
        states = ScheduleState.objects.using(using).filter(pk__in=ids).exclude(paused_at=None).order_by("pk")
        for state in states.select_for_update():
            schedule = with_text(Schedule.objects.using(using)).filter(pk=state.pk).first()
            if schedule is not None:
                _pass_by_missed(schedule, state, timezone.now(), using)
            resumed += states.filter(pk=state.pk).update(paused_at=None, paused_by="")
    logger.info("%d schedules of %s were resumed by %s", resumed, list(ids), by)
    return resumed


def _pass_by_missed(schedule: Any, state: ScheduleState, now: datetime, using: str) -> None:
    seen = readable(schedule)
    if seen is None or seen > now or schedule.schedule_type == rule.ONCE:
        return
    try:
        anchor = anchor_of(state, seen)
        following = rule.next_after(rule_of(schedule, state.zone, anchor), now)
    except RuleError:  # the scheduler will say so
        return
    next_run = as_field(following) if following and following < LATEST else None
    if Schedule.objects.using(using).filter(pk=schedule.pk, next_run=as_field(seen)).update(next_run=next_run):
        ScheduleState.objects.using(using).filter(pk=schedule.pk).update(anchor=anchor, computed=next_run)
