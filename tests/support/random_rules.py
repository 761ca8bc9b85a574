"""Random rules, zones and moments: most of the moments are near a change of the clock."""

import random
from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from durable_queue.schedule.rule import Rule
from tests.support.schedule_walk import Named, changes

# With changes at midnight, of half an hour, of two hours, of a day, during Ramadan, a minute after midnight, and none.
_NAMES = """
    Europe/Berlin Europe/Dublin America/New_York America/St_Johns America/Sao_Paulo America/Havana America/Santiago
    Australia/Lord_Howe Pacific/Apia Pacific/Kwajalein Pacific/Chatham Africa/Casablanca Africa/Cairo Asia/Beirut Asia/Gaza
    Asia/Tehran Asia/Kathmandu Asia/Pyongyang America/Caracas Antarctica/Troll America/Nuuk UTC
"""
ZONES = [ZoneInfo(name) for name in _NAMES.split()]
KINDS = ["O", "I", "H", "D", "W", "BW", "M", "BM", "Q", "Y", *["C"] * 12]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


@dataclass(frozen=True)
class Case:
    """A rule, what its cron line names, and the moment after which its next run is asked for."""

    rule: Rule
    named: Named | None
    moment: datetime


def random_case(seed: int) -> Case:
    """The case of this seed."""
    random_ = random.Random(seed)
    zone = random_.choice(ZONES)
    kind = random_.choice(KINDS)
    moment = _moment(random_, zone)
    anchor = (
        _moment(random_, zone) if kind not in "IH" else moment + timedelta(seconds=random_.randint(-40 * 86400, 40 * 86400))
    )
    minutes = random_.choice([None, 0, 1, 2, 7, 30, 90, 1440, 32767]) if kind == "I" else None
    cron, named = _cron(random_) if kind == "C" else (None, None)
    return Case(Rule(kind, minutes, cron, zone, anchor), named, moment)


def _moment(random_: random.Random, zone: ZoneInfo) -> datetime:
    year = random_.choice([random_.randint(1975, 2060), random_.randint(2005, 2040), 2011, 1993])
    near = changes(zone, year)
    if near and random_.random() < 0.7:
        moment = random_.choice(near) + timedelta(
            seconds=random_.randint(-2 * 86400, 2 * 86400) // random_.choice([1, 1, 6, 24])
        )
    else:
        moment = datetime(year, 1, 1, tzinfo=UTC) + timedelta(seconds=random_.randrange(365 * 86400))
    if random_.random() < 0.5:
        moment = moment.replace(second=0)
        moment = moment.replace(minute=moment.minute // 15 * 15)
    return moment.replace(microsecond=random_.choice([0, 0, 1, 999_000])).astimezone(random_.choice([zone, UTC]))


def _cron(random_: random.Random) -> tuple[str, Named]:
    """A line of five to seven fields, and what it names, said without its text."""
    minute, minutes = _field(random_, 0, 59, star=0.2)
    hour, hours = _field(random_, 0, 23, star=0.3)
    month, months = _field(random_, 1, 12, star=0.75, names=MONTHS)
    day, is_day = _day_fields(random_)
    fields, seconds, years = [minute, hour, *day[:1], month, *day[1:]], {0}, None
    if random_.random() < 0.15:
        second, seconds = _field(random_, 0, 59, star=0.2)
        fields.append(second)
        if random_.random() < 0.5:
            year, years = _field(random_, 1970, 2099, star=0.2)
            fields.append(year)
    named = Named(
        is_day=lambda day: day.month in months and (years is None or day.year in years) and is_day(day),
        is_minute=lambda hour, minute: hour in hours and minute in minutes,
        added=tuple(timedelta(seconds=second) for second in sorted(seconds)),
        is_elapsed="*" in minute or "*" in hour,
    )
    return " ".join(fields), named


def _day_fields(random_: random.Random) -> tuple[list[str], Callable[[date], bool]]:
    """The fields for days, and whether they name a day: either will do if both are restricted."""
    way = random_.random()
    weekday, number = random_.randrange(7), random_.randint(1, 31)
    if way < 0.1:
        nth = (number + 6) // 7
        return ["*", f"{weekday}#{nth}"], lambda day: day.isoweekday() % 7 == weekday and (day.day + 6) // 7 == nth
    if way < 0.2:
        return [
            "?",
            f"L{weekday}",
        ], lambda day: day.isoweekday() % 7 == weekday and (day + timedelta(days=7)).month != day.month
    if way < 0.3:
        return [f"{number}W", "*"], lambda day: day == _working_day(day, number)
    if way < 0.4:
        return ["L", "*"], lambda day: (day + timedelta(days=1)).month != day.month
    days, numbers = _field(random_, 1, 31, star=0.6)
    weekdays, on = _field(random_, 0, 6, star=0.7, names=WEEKDAYS)

    def is_day(day: date) -> bool:
        is_number, is_weekday = day.day in numbers, day.isoweekday() % 7 in on
        return is_number or is_weekday if "*" not in (days, weekdays) else is_number and is_weekday

    return [days, weekdays], is_day


def _working_day(day: date, wanted: int) -> date:
    """The day from Monday to Friday nearest to the wanted one of this month, within the month."""
    length = monthrange(day.year, day.month)[1]
    working = [day.replace(day=number) for number in range(1, length + 1) if day.replace(day=number).isoweekday() < 6]
    return min(working, key=lambda other: (abs(other.day - min(wanted, length)), other.day))


def _field(random_: random.Random, low: int, high: int, *, star: float, names: list[str] | None = None) -> tuple[str, set[int]]:
    """A field of a cron line, and the numbers that it names. It never names all but as `*`."""
    if random_.random() < star:
        return "*", set(range(low, high + 1))
    if random_.random() < 0.2:
        step = random_.choice([2, 3, 5, 10])
        return f"*/{step}", set(range(low, high + 1, step))
    parts, numbers = [], set()
    for _ in range(random_.choice([1, 1, 1, 2, 3])):
        first = random_.randint(low, high)
        last = random_.randint(first, min(high, first + (high - low) // 3))
        step = random_.choice([1, 2, 7])
        if last == first:
            parts.append(names[first - low] if names and random_.random() < 0.5 else str(first))
            step = 1
        elif step == 1:
            parts.append(f"{first}-{last}")
        else:
            parts.append(f"{first}-{last}/{step}")
        numbers |= set(range(first, last + 1, step))
    return ",".join(parts), numbers
