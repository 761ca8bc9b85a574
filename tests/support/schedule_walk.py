"""When a schedule runs, by looking at the clock of its zone minute by minute: slow, plain, and independent of `rule`.

It knows no gaps and no repeated hours, only what the clock shows: it jumped ahead, or it shows a time that it has shown.
Days without a change of the clock within three days are looked at as a whole.
"""

from calendar import monthrange
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from durable_queue.schedule.rule import Rule

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
NEAR = 3 * DAY
STEPS = {"I": MINUTE, "H": timedelta(hours=1)}
MONTHS = {"M": 1, "BM": 2, "Q": 3, "Y": 12}
DAYS = {"D": 1, "W": 7, "BW": 14}


@dataclass(frozen=True)
class Named:
    """The times that a rule names: minutes of days, and what is added to them (the seconds of a cron line, or the anchor's)."""

    is_day: Callable[[date], bool]
    is_minute: Callable[[int, int], bool]
    added: tuple[timedelta, ...]
    is_elapsed: bool


def first_after(rule: Rule, named: Named | None, moment: datetime, days: int) -> datetime | None:
    """The first run after `moment`, if it comes within so many days. `named` is what a cron line names."""
    moment, run = moment.astimezone(UTC), rule.anchor.astimezone(UTC)
    if rule.kind == "O":
        return run if run > moment else None
    if rule.kind in STEPS:
        step = STEPS[rule.kind] * ((rule.minutes or 1) if rule.kind == "I" else 1)
        while run > moment:
            run -= step
        while run <= moment:
            run += step
        return run
    named = named or of_calendar(rule)
    day = datetime.combine(moment.date(), time(), UTC) - DAY  # a run is at most a minute after its minute
    for _ in range(days + 2):
        runs = sorted(run for run in runs_of_day(rule.zone, named, day) if run > moment)
        if runs:
            return runs[0]
        day += DAY
    return None


def of_calendar(rule: Rule) -> Named:
    """What a rule of days, weeks, months or years names."""
    anchor = rule.anchor.astimezone(rule.zone)

    def is_day(day: date) -> bool:
        if rule.kind in DAYS:
            return (day - anchor.date()).days % DAYS[rule.kind] == 0
        months = (day.year - anchor.year) * 12 + day.month - anchor.month
        return months % MONTHS[rule.kind] == 0 and day.day == min(anchor.day, monthrange(day.year, day.month)[1])

    rest = timedelta(seconds=anchor.second, microseconds=anchor.microsecond)
    return Named(is_day, lambda hour, minute: (hour, minute) == (anchor.hour, anchor.minute), (rest,), is_elapsed=False)


def runs_of_day(zone: ZoneInfo, named: Named, day: datetime) -> Iterator[datetime]:
    """The runs of a rule on the day, by UTC, that begins at `day`."""
    shown = [(day + days * DAY).astimezone(zone).date() for days in (0, 1)]
    if not _has_change(zone, day - NEAR, day + DAY + NEAR):
        if any(named.is_day(date) for date in shown):
            yield from _runs_of_quiet_day(zone, named, day)
        return
    around = [shown[0] + days * DAY for days in range(-1, (shown[1] - shown[0]).days + 2)]  # a gap may be as long as a day
    if any(named.is_day(date) for date in around):
        yield from _runs_by_the_minute(zone, named, day)


def _runs_of_quiet_day(zone: ZoneInfo, named: Named, day: datetime) -> Iterator[datetime]:
    wall = day.astimezone(zone).replace(tzinfo=None)
    for minutes in range(24 * 60):
        now = wall + minutes * MINUTE
        if named.is_minute(now.hour, now.minute) and named.is_day(now.date()):
            yield from (day + minutes * MINUTE + added for added in named.added)


def _runs_by_the_minute(zone: ZoneInfo, named: Named, day: datetime) -> Iterator[datetime]:
    was_changed = _has_change(zone, day - 2 * DAY, day)
    moment = day - (DAY if was_changed else MINUTE)
    before = moment.astimezone(zone).replace(tzinfo=None)
    latest = before  # what the clock has shown at the most
    while moment < day + DAY:
        now = moment.astimezone(zone).replace(tzinfo=None)
        if moment >= day:
            if named.is_elapsed or now > latest:
                yield from (moment + added for added in named.added if _is_named(named, now))
            if not named.is_elapsed and any(_is_named(named, skipped) for skipped in _minutes_between(before, now)):
                yield moment
        latest, before = max(latest, now), now
        moment += MINUTE


def _is_named(named: Named, wall: datetime) -> bool:
    return named.is_minute(wall.hour, wall.minute) and named.is_day(wall.date())


def _minutes_between(before: datetime, now: datetime) -> Iterator[datetime]:
    before += MINUTE
    while before < now:
        yield before
        before += MINUTE


def _has_change(zone: ZoneInfo, start: datetime, end: datetime) -> bool:
    return any(start <= change <= end for year in {start.year, end.year} for change in changes(zone, year))


@cache
def changes(zone: ZoneInfo, year: int) -> tuple[datetime, ...]:
    """The hours of a year before whose end the offset changed."""
    days = _steps_with_change(zone, datetime(year, 1, 1, tzinfo=UTC), DAY, 366)
    return tuple(hour for day in days for hour in _steps_with_change(zone, day, timedelta(hours=1), 24))


def _steps_with_change(zone: ZoneInfo, start: datetime, step: timedelta, count: int) -> list[datetime]:
    moments = [start + number * step for number in range(count + 1)]
    offsets = [moment.astimezone(zone).utcoffset() for moment in moments]
    return [moment for moment, offset, later in zip(moments, offsets, offsets[1:], strict=False) if offset != later]
