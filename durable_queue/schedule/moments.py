"""Moments as a database holds them, some of which Python has not: infinity, years before Christ or after 9999, any text.

One such `next_run` makes a query fail that reads it. Therefore it is read as text wherever all schedules are.
"""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from django_q.models import Schedule

from durable_queue.task.stored_text import AsText

_default = timezone.get_default_timezone  # whose times naive ones are

# Every zone can show what lies between.
EARLIEST, LATEST = datetime(1, 1, 3, tzinfo=UTC), datetime(9999, 12, 28, tzinfo=UTC)

_FIELD = Schedule._meta.get_field("next_run")


def with_text(schedules: QuerySet[Any]) -> QuerySet[Any]:
    """The schedules, each with its `next_run` as text too: `readable` sets the field."""
    found: QuerySet[Any] = schedules.defer("next_run").annotate(next_run_text=AsText("next_run"))
    return found


def read(text: str | None) -> datetime | None:
    """The moment that the text of a `next_run` stands for, aware; None if there is none, or none that Python has."""
    try:
        moment = datetime.fromisoformat(text or "")
        zone = moment.tzinfo or (UTC if settings.USE_TZ else _default())
        return moment.replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):  # its offset may lead out of what Python has
        return None


def readable(schedule: Any) -> datetime | None:
    """The `next_run` of a schedule from `with_text`, aware; None if there is none, or none that every zone can show."""
    moment = read(schedule.next_run_text)
    return moment if moment and EARLIEST < moment < LATEST else None


def set_next_run(schedule: Any) -> Any:
    """Give a schedule from `with_text` its `next_run`, None if it can't be read; returns the schedule."""
    moment = readable(schedule)
    schedule.next_run = None if moment is None else as_field(moment)
    return schedule


def aware(value: Any) -> datetime | None:
    """A value of `next_run` (a text, a naive or an aware moment) as the row will hold it. Raises ValidationError."""
    moment: datetime | None = _FIELD.to_python(value)
    if moment is None or timezone.is_aware(moment):
        return moment
    return timezone.make_aware(moment, _default())


def as_field(moment: datetime) -> datetime:
    """An aware moment as `next_run` takes it."""
    return moment.astimezone(UTC) if settings.USE_TZ else timezone.make_naive(moment, _default())
