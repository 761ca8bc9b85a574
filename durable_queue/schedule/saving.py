"""What happens when a schedule is saved: it is checked, and nothing stale overwrites what a run has changed meanwhile."""

from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.utils import timezone
from django_q.models import Schedule

from durable_queue.models import ScheduleState
from durable_queue.schedule import doubts, loaded, refusing, rule
from durable_queue.schedule.moments import LATEST, as_field, aware, set_next_run, with_text
from durable_queue.schedule.stored import ANEW, anchor_of, change_state, judgement, rule_of, state_of, zone_of

JUDGED = {"schedule_type", "minutes", "cron", "zone"} | doubts.FIELDS  # whether it can be run depends on these

_save = Schedule.save


def install() -> None:
    """Have every schedule of this process saved like this. django-q2's model has no place to hook in before it reckons."""
    Schedule.save, Schedule.calculate_next_run = save, calculate_next_run
    Schedule.clean_fields, Schedule.clean = refusing.clean_fields, refusing.clean
    Schedule.from_db, Schedule.refresh_from_db = classmethod(loaded.from_db), loaded.refresh_from_db


def save(self: Any, *args: Any, **kwargs: Any) -> None:
    """`Schedule.save`, in one transaction with the schedule's state. Raises ValidationError for what can never be computed.

    Raises Schedule.DoesNotExist if its only run has deleted the row since it was loaded: saved again, it would run again.
    """
    kwargs.update(zip(("force_insert", "force_update", "using", "update_fields"), args, strict=False))
    using = kwargs["using"] = kwargs.get("using") or router.db_for_write(Schedule, instance=self)
    with transaction.atomic(using=using):
        before = None if self.pk is None or kwargs.get("force_insert") else _locked(self.pk, using)
        state = None if before is None else state_of(self.pk, using)
        if before is None and loaded.as_loaded(self).get("schedule_type") == rule.ONCE and not kwargs.get("force_insert"):
            raise Schedule.DoesNotExist("It has run, or was deleted, since it was loaded. To run it again, set pk to None.")
        only = kwargs.get("update_fields")
        names = set(loaded.NAMES if only is None else only) & set(loaded.NAMES) - {"id", *self.get_deferred_fields()}
        changed = _changed(self, before, state, names)
        refusing.check(self, changed)
        changes = _of_state(self, before, state, changed)
        if {*refusing.rule_fields(self), "zone"} & changed and self.schedule_type == rule.CRON:
            try:
                self.next_run = refusing.first_run(self, state, aware(self.next_run) if "next_run" in changed else None)
                names.add("next_run")
            except ValidationError:
                if refusing.rule_fields(self) & changed:
                    raise  # else only its zone is new: a broken line stays as it is
        if before and (only is not None or "next_run" not in names):
            kwargs["update_fields"] = names | set(only or ()) - set(loaded.NAMES)
        _save(self, **kwargs)
        if changes:
            change_state(self.pk, changes, using)
    loaded.remember(self, names if before else None, before)
    for name in ("zone", "_computed", "_own_state"):
        self.__dict__.pop(name, None)


def calculate_next_run(self: Any, next_run: datetime | None = None) -> datetime:
    """`Schedule.calculate_next_run`, by our rule: the first run after `next_run`, or after that of the row.

    That of a new cron schedule is its first. Raises RuleError, and ValidationError.
    """
    if self.pk is None and self.schedule_type == rule.CRON and next_run is None:
        return refusing.first_run(self, None, aware(self.next_run))
    if "_own_state" not in self.__dict__:  # django-q2's scheduler asks once for each run that was missed
        self._own_state = state_of(self.pk, self._state.db or router.db_for_read(Schedule))
    own = aware(self.next_run) or timezone.now()
    after = aware(next_run) or own
    if self.schedule_type == rule.CRON:
        after = max(after, timezone.now())
    anchored = rule_of(self, zone_of(self, self._own_state), anchor_of(self._own_state, own))
    # What never comes again comes at the end of time: django-q2's scheduler can't do with None.
    self._computed = as_field(rule.next_after(anchored, after) or LATEST)
    computed: datetime = self._computed
    return computed


def _locked(pk: int, using: str) -> Any:
    """The row as it is now, which no run changes meanwhile; None if there is none."""
    row = with_text(Schedule.objects.using(using)).select_for_update().filter(pk=pk).first()
    return row and set_next_run(row)


def _changed(schedule: Any, before: Any, state: ScheduleState | None, names: set[str]) -> set[str]:
    """Which of these fields this save changes. What a run has changed meanwhile stays so; what can't be read leaves `names`."""
    if before is None:
        return names | ({"zone"} if schedule.__dict__.get("zone") else set())
    changed = {"zone"} if zone_of(schedule, state) != (state.zone if state else "") else set()
    stale = loaded.stale(schedule, before) & names
    for name in stale:
        setattr(schedule, name, getattr(before, name))
    if "next_run" in stale and before.next_run is None and before.next_run_text is not None:
        names.discard("next_run")  # it can't be read
    for name in names:
        value, now = getattr(schedule, name), getattr(before, name)
        if name == "next_run":
            value, now = aware(value), aware(now)
        elif value is not None and not isinstance(value, tuple | dict):
            value = Schedule._meta.get_field(name).to_python(value)
        if value != now:
            changed.add(name)
    return changed


def _of_state(schedule: Any, before: Any, state: ScheduleState | None, changed: set[str]) -> dict[str, Any]:
    """What this save changes of the schedule's state."""
    changes: dict[str, Any] = {"zone": schedule.zone} if "zone" in changed else {}
    if before is not None:
        next_run, seen = aware(schedule.next_run), aware(before.next_run)
        if "next_run" in changed and seen and next_run and next_run == aware(schedule.__dict__.get("_computed")):
            # django-q2's own scheduler has run it.
            changes |= {"anchor": anchor_of(state, seen), "computed": next_run, "last_run": seen}
        elif state and ({*refusing.rule_fields(schedule), "zone", "next_run"} & changed):
            changes |= ANEW
    if JUDGED & changed:
        judged = judgement(schedule)
        if judged["problem"] or (state and state.problem):
            changes |= judged
    return changes
