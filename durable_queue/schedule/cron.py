"""A cron line: which times of the wall clock it names.

croniter reads the line, since django-q2 reads it so: the lines that were accepted go on and mean what they meant (cronsim
refuses six fields and `@hourly`, and reads `30 1-3 * * *` differently around a change of the clock). What croniter *reckons*
isn't used: it walks, it fails after 50 years, and it has another rule at a change of the clock. What is read here is
constant, so that threads may share it.
"""

from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Any

try:
    from croniter import croniter
except ImportError:  # django-q2 leaves it to its users to install it
    croniter = None

from durable_queue.schedule.errors import RuleError, short
from durable_queue.schedule.month_days import DayFields, MonthDays, month_days

LONGEST = 1000  # characters. The column holds 100, but SQLite has let more in, and such rows go on
CYCLE = 400  # years, after which the calendar repeats, weekdays too: what doesn't come within it, never comes

FIELDS = 5  # minute, hour, day, month, weekday. A sixth field is seconds, a seventh years
EXAMPLE = 'Write minute, hour, day of the month, month and day of the week, for example "30 2 * * 1-5"'


@dataclass(frozen=True)
class Line:
    """What a cron line names: times of the day, on days of months. Years: all, if None."""

    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    seconds: tuple[int, ...]
    months: tuple[int, ...]
    years: tuple[int, ...] | None
    days: MonthDays
    is_elapsed: bool  # `*` or `*/n` in minute or hour
    unit: timedelta  # a minute, or a second for lines of six and seven fields

    def first(self, start: datetime) -> datetime | None:
        """The first time at or after `start` (both naive) that the line names, before the year 10000. None: there is none."""
        start = _ceil(start, self.unit)
        day = self._first_day(start.date())
        if day == start.date():
            if (later := self._first_time(start.time())) is not None:
                return datetime.combine(day, later)
            day = None if day == date.max else self._first_day(day + timedelta(days=1))
        return None if day is None else datetime.combine(day, time(self.hours[0], self.minutes[0], self.seconds[0]))

    def ever(self) -> bool:
        """Whether it names any day, past or to come."""
        return self._first_day(date(self.years[0] if self.years else 2000, 1, 1)) is not None

    def _first_day(self, start: date) -> date | None:
        years = range(start.year, min(start.year + CYCLE, date.max.year) + 1)
        for year in years if self.years is None else self.years[bisect_left(self.years, start.year) :]:
            for month in self.months:
                if (year, month) < (start.year, start.month):
                    continue
                weekday, length = monthrange(year, month)  # Monday is 0
                earliest = start.day if (year, month) == (start.year, start.month) else 1
                if (day := _at_or_after(self.days[(weekday + 1) % 7, length], earliest)) is not None:
                    return date(year, month, day)
        return None

    def _first_time(self, start: time) -> time | None:
        if start.hour in self.hours:
            if start.minute in self.minutes and (second := _at_or_after(self.seconds, start.second)) is not None:
                return time(start.hour, start.minute, second)
            if (minute := _at_or_after(self.minutes, start.minute + 1)) is not None:
                return time(start.hour, minute, self.seconds[0])
        hour = _at_or_after(self.hours, start.hour + 1)
        return None if hour is None else time(hour, self.minutes[0], self.seconds[0])


@lru_cache(maxsize=4096)
def read(text: str) -> Line:
    """Read a cron line. Raises RuleError: it is malformed, or names no day of any year."""
    if croniter is None:
        raise RuleError("Cron lines are read by croniter, which is not installed: pip install croniter")
    if len(text) > LONGEST:
        raise RuleError(f"The cron line has {len(text)} characters: write at most {LONGEST}, or use several schedules")
    try:
        parsed = croniter(text, 0.0)
    except Exception as error:  # it raises whatever int() and its tables raise, too
        raise RuleError(f"The cron line {short(text)} is malformed: {_printable(error)}. {EXAMPLE}") from error
    if any(field.startswith("r") for field in parsed.expressions):
        raise RuleError(f"The cron line {short(text)} means another time at each look: write a fixed number in place of R")
    day_fields = DayFields(
        days=frozenset(parsed.expanded[2]),
        weekdays=frozenset(parsed.expanded[4]),
        nth=frozenset((weekday, n) for weekday, numbers in parsed.nth_weekday_of_month.items() for n in numbers),
        nearest=frozenset(parsed.nearest_weekday),
    )
    line = _line(parsed, day_fields)
    needed = [replace(line, days=month_days(side)) for side in day_fields.sides()] if day_fields.must_both_come else [line]
    if not all(side.ever() for side in needed):
        raise RuleError(f"The cron line {short(text)} never comes: change its days, months or years")
    return line


def _line(parsed: Any, day_fields: DayFields) -> Line:
    minutes, hours, _, months, _ = parsed.expanded[:FIELDS]
    seconds = parsed.expanded[FIELDS] if len(parsed.expanded) > FIELDS else [0]
    years = parsed.expanded[FIELDS + 1] if len(parsed.expanded) > FIELDS + 1 else ["*"]
    elapsed = [item for field in parsed.expressions[:2] for item in field.split(",") if item == "*" or item.startswith("*/")]
    return Line(
        hours=_numbers(hours, range(24)),
        minutes=_numbers(minutes, range(60)),
        seconds=_numbers(seconds, range(60)),
        months=_numbers(months, range(1, 13)),
        years=None if "*" in years else _numbers(years, ()),
        days=month_days(day_fields),
        is_elapsed=bool(elapsed),
        unit=timedelta(seconds=1) if len(parsed.expanded) > FIELDS else timedelta(minutes=1),
    )


def _numbers(field: list[Any], everything: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(everything if "*" in field else field))


def _at_or_after(numbers: tuple[int, ...], start: int) -> int | None:
    index = bisect_left(numbers, start)
    return numbers[index] if index < len(numbers) else None


def _printable(error: Exception) -> str:
    """The error's text, which has the line in it, without what no database takes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(error)[:200]).rstrip(".")


def _ceil(wall: datetime, unit: timedelta) -> datetime:
    rest = (wall - datetime(1, 1, 1)) % unit  # noqa: DTZ001 - a time of the wall clock
    return wall + (unit - rest) if rest else wall
