"""What of a schedule can never be computed. It is refused where it is new or has changed.

A broken one can thus still be renamed, paused and deleted. Rows that `bulk_create`, `update()`, fixtures or stock django-q2
have written are judged when they fall due.
"""

from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Model
from django.utils import timezone
from django_q.models import Schedule

from durable_queue.models import ScheduleState
from durable_queue.schedule import loaded, rule
from durable_queue.schedule.arguments import ArgumentsError, read_call
from durable_queue.schedule.literals import check_given
from durable_queue.schedule.moments import EARLIEST, LATEST, as_field, aware
from durable_queue.schedule.rule import RuleError
from durable_queue.schedule.stored import rule_of, zone_of
from durable_queue.schedule.zones import zone_named

LONGEST_CRON = Schedule._meta.get_field("cron").max_length
REMEDIES = {
    "args": "Write Python literals, text in quotes: 1, 'John'",
    "kwargs": "Write names and Python literals, text in quotes: x=1, name='John'",
}
FIELD_OF_KIND = {rule.MINUTES: "minutes", rule.CRON: "cron"}


def check(schedule: Any, changed: set[str]) -> None:
    """Raise ValidationError for what can never be computed, if it is among the changed fields."""
    errors: dict[str, str] = {}
    for name in {"args", "kwargs"} & changed:
        value = getattr(schedule, name)
        try:
            check_given(value)
            read_call(**{"args": None, "kwargs": None, name: None if value is None else str(value)})  # as it is saved
        except ArgumentsError as error:
            errors[name] = f"{error}. {REMEDIES[name]}"
    try:
        if rule_fields(schedule) & changed:
            _check_rule(schedule)
        if "zone" in changed:
            zone_named(schedule.zone or "")
    except RuleError as error:
        errors[FIELD_OF_KIND.get(schedule.schedule_type, "schedule_type")] = f"{error}."
    if errors:
        raise ValidationError(errors)


def rule_fields(schedule: Any) -> set[str]:
    """The fields that say when it runs."""
    field = FIELD_OF_KIND.get(schedule.schedule_type)
    return {"schedule_type", field} if field else {"schedule_type"}


def clean_fields(self: Any, exclude: Any = None) -> None:
    """`Model.clean_fields`, of what has changed. Arguments are looked at before they become text."""
    excluded = {*(exclude or ()), *loaded.unchanged(self)}
    for name in {"args", "kwargs"} - excluded:
        try:
            check_given(getattr(self, name))
        except ArgumentsError as error:
            raise ValidationError({name: str(error)}) from error
    if self.schedule_type == rule.CRON:
        excluded.add("cron")  # `clean` says what to do, too
    Model.clean_fields(self, exclude=excluded)


def clean(self: Any) -> None:
    """`Model.clean`, and what can never be computed. Raises ValidationError."""
    Model.clean(self)
    changed = set(loaded.NAMES) - loaded.unchanged(self)
    check(self, changed)
    moment = aware(self.next_run) if "next_run" in changed and isinstance(self.next_run, datetime) else None
    if moment and not EARLIEST < moment < LATEST:
        raise ValidationError({"next_run": "Write a moment between the years 1 and 9999, or none."})
    if self.schedule_type == rule.CRON and rule_fields(self) & changed and isinstance(self.next_run, datetime):
        first_run(self, None, aware(self.next_run) if "next_run" in changed else None)


def first_run(schedule: Any, state: ScheduleState | None, given: datetime | None) -> datetime:
    """The first match of a new cron line: at or after the given `next_run` if that is to come, else after now.

    Raises ValidationError if there is none.
    """
    now = timezone.now()
    try:
        zoned = rule_of(schedule, zone_of(schedule, state), now)
        found = rule.first_at_or_after(zoned, given) if given and given > now else rule.next_after(zoned, now)
    except RuleError as error:
        raise ValidationError({"cron": f"{error}."}) from error
    if found is None or found > LATEST:
        raise ValidationError({"next_run": "The cron line does not come from then on: write an earlier moment."})
    return as_field(found)


def _check_rule(schedule: Any) -> None:
    rule.check(schedule.schedule_type, schedule.minutes, schedule.cron, after=timezone.now())
    if schedule.schedule_type == rule.CRON and len(schedule.cron) > LONGEST_CRON:
        raise RuleError(f"The cron line has {len(schedule.cron)} characters: write at most {LONGEST_CRON}")
