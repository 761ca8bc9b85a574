"""What a schedule's row held when it was loaded. Only so can a change be told from a value that is an hour old.

(https://docs.djangoproject.com/en/5.2/ref/models/instances/#customizing-model-loading)
"""

from typing import Any

from django.db.models import Model
from django_q.models import Schedule

RUN_FIELDS = frozenset({"next_run", "repeats", "task"})  # what each run changes
NAMES = tuple(field.attname for field in Schedule._meta.concrete_fields)


def remember(schedule: Any, saved: set[str] | None = None, before: Any = None) -> None:
    """Note what the row holds now, as far as it was loaded or these fields were saved, in the place of `before`."""
    values = {name: schedule.__dict__[name] for name in NAMES if name in schedule.__dict__}
    noted = values if saved is None else as_loaded(schedule) | {name: values[name] for name in saved & values.keys()}
    schedule.__dict__["_as_loaded"] = noted
    schedule.__dict__["_as_it_was"] = {name: getattr(before, name) for name in RUN_FIELDS} if before else {}


def as_loaded(schedule: Any) -> dict[str, Any]:
    """What was noted last; nothing for a schedule that was never loaded."""
    noted: dict[str, Any] = schedule.__dict__.get("_as_loaded", {})
    return noted if schedule.pk is not None else {}


def unchanged(schedule: Any) -> set[str]:
    """The fields that are as they were when they were loaded."""
    values = schedule.__dict__
    return {name for name, value in as_loaded(schedule).items() if name in values and values[name] == value}


def stale(schedule: Any, before: Any) -> set[str]:
    """The fields that a run changes, of which the schedule has an old value, or the one of `before`, the row as it is.

    A row that is as it was before the last save, although that has changed it: its transaction was rolled back.
    """
    was, values = schedule.__dict__.get("_as_it_was", {}), schedule.__dict__
    rolled_back = {name for name in was if getattr(before, name) == was[name] != values.get(name)}
    return set(RUN_FIELDS & unchanged(schedule) - rolled_back)


def from_db(cls: Any, db: str | None, field_names: Any, values: Any) -> Any:
    """`Model.from_db`, which remembers."""
    schedule = Model.from_db.__func__(cls, db, field_names, values)  # type: ignore[attr-defined]
    remember(schedule)
    return schedule


def refresh_from_db(self: Any, *args: Any, **kwargs: Any) -> None:
    """`Model.refresh_from_db`, which remembers."""
    before = dict(as_loaded(self))
    Model.refresh_from_db(self, *args, **kwargs)
    fields = args[1] if len(args) > 1 else kwargs.get("fields")
    remember(self)
    if fields is not None:  # the others may have been changed since they were loaded
        self.__dict__["_as_loaded"] |= {name: value for name, value in before.items() if name not in fields}
