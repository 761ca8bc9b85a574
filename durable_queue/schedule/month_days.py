"""Which days of a month the two day fields of a cron line name."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

SATURDAY, SUNDAY = 6, 0

# The days that match, by the weekday of the first of the month (Sunday is 0) and the number of its days.
MonthDays = dict[tuple[int, int], tuple[int, ...]]


@dataclass(frozen=True)
class DayFields:
    """The fields day of the month and day of the week as croniter reads them. A set with `*` in it names all."""

    days: frozenset[int | Literal["*", "l"]]
    weekdays: frozenset[int | Literal["*"]]
    nth: frozenset[tuple[int, int | Literal["l"]]]  # the second Monday, of `1#2`: (1, 2). They stand in place of the weekdays
    nearest: frozenset[int]  # the weekday nearest to the 15th, of `15W`: 15. They stand in place of the days

    def sides(self) -> tuple["DayFields", ...]:
        """Each field alone if both say something, since either will do; else both together.

        `#`, `L` before a weekday and `W` hold on both sides, as croniter has it: they narrow the other field.
        """
        if "*" in self.days or "*" in self.weekdays:
            return (self,)
        everything: frozenset[Literal["*"]] = frozenset("*")  # type: ignore[arg-type]
        return (
            DayFields(self.days, everything, self.nth, self.nearest),
            DayFields(everything, self.weekdays, self.nth, self.nearest),
        )

    @property
    def must_both_come(self) -> bool:
        """Whether a line of which one side never comes is wrong: croniter refuses it, if the sides narrow each other."""
        return bool(self.nth or self.nearest)


@lru_cache(maxsize=256)  # most lines have `* * *`, and share this table
def month_days(fields: DayFields) -> MonthDays:
    """The days that either side names."""
    return {
        (first, length): tuple(sorted({day for side in fields.sides() for day in _days(side, first, length)}))
        for first in range(7)
        for length in (28, 29, 30, 31)
    }


def _days(fields: DayFields, first: int, length: int) -> Iterator[int]:
    nearest = {_nearest(day, first, length) for day in fields.nearest}
    for day in range(1, length + 1):
        weekday = (first + day - 1) % 7
        is_day = (
            day in nearest if nearest else "*" in fields.days or day in fields.days or ("l" in fields.days and day == length)
        )
        if fields.nth:
            is_last = day + 7 > length
            is_weekday = (weekday, (day - 1) // 7 + 1) in fields.nth or (is_last and (weekday, "l") in fields.nth)
        else:
            is_weekday = "*" in fields.weekdays or weekday in fields.weekdays
        if is_day and is_weekday:
            yield day


def _nearest(day: int, first: int, length: int) -> int:
    """The day from Monday to Friday that is nearest to `day`, within its month."""
    day = min(day, length)
    weekday = (first + day - 1) % 7
    if weekday == SATURDAY:
        return day - 1 if day > 1 else day + 2
    if weekday == SUNDAY:
        return day + 1 if day < length else day - 2
    return day
