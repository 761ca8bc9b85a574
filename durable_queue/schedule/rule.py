"""The rule of a schedule: when it runs, by arithmetic, in the same time however long ago the last run was.

Minutes, Hourly and cron lines with `*` or `*/n` in minute or hour count elapsed time. All others follow the clock on the
wall: a time that it skips runs at the end of the gap, one that it shows twice runs when it is shown first, and no two runs
fall on one moment. The anchor keeps the time of day and the day of the month for ever.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from durable_queue.schedule import cron as cron_lines
from durable_queue.schedule import wall_clock
from durable_queue.schedule.errors import RuleError, short

__all__ = ["Rule", "RuleError", "check", "first_at_or_after", "next_after", "whole_minutes"]

# django-q2's values of `Schedule.schedule_type`.
ONCE, MINUTES, HOURLY, CRON = "O", "I", "H", "C"
DAYS = {"D": 1, "W": 7, "BW": 14}
MONTHS = {"M": 1, "BM": 2, "Q": 3, "Y": 12}
KINDS = {ONCE, MINUTES, HOURLY, CRON, *DAYS, *MONTHS}

# Every zone can show it. Earlier moments count as this one: there is no wall clock at the beginning of year 1.
EARLIEST = datetime(1, 1, 3, tzinfo=UTC)


@dataclass(frozen=True)
class Rule:
    """When a schedule runs. The anchor is aware; what it sets goes on before it, too."""

    kind: str  # django-q2's `schedule_type`
    minutes: int | None  # of kind "I"; None and 0, in old rows, mean 1
    cron: str | None  # of kind "C"
    zone: ZoneInfo  # whose clock on the wall counts
    anchor: datetime  # ONCE runs then. Minutes and Hourly count from it; the others keep its time of day and day of the month


def check(kind: str, minutes: object, cron: object, *, after: datetime | None = None) -> None:
    """Raise RuleError if no run can ever be computed.

    Past years are no error, since their last run may be late: with `after`, a cron line must also come after it, by UTC.
    """
    _check_kind(kind)
    if kind == MINUTES:
        whole_minutes(minutes)
    if kind == CRON:
        _line(cron)
        rule = Rule(CRON, None, str(cron), ZoneInfo("UTC"), EARLIEST)
        if after is not None and next_after(rule, after) is None:
            raise RuleError(f"The cron line {short(cron)} never comes again: its years are over. Write later ones, or none")


def whole_minutes(minutes: object) -> int:
    """The minutes from one run to the next. None, 0 and "" of old rows mean 1; "5" is 5, as it is saved. Raises RuleError."""
    if minutes is None or minutes == "":
        return 1
    try:
        if not isinstance(minutes, str | int | float | Decimal):
            raise TypeError
        whole = int(minutes)
        is_whole = isinstance(minutes, str) or whole == minutes
    except (ValueError, TypeError, OverflowError):
        is_whole = False
    if not is_whole or whole < 0:
        raise RuleError(f"The minutes are {short(minutes)}: write a whole number, 1 or more")
    return whole or 1


def next_after(rule: Rule, moment: datetime) -> datetime | None:
    """The first run later than `moment` (aware), in UTC. None: never again, or not before the year 10000. Raises RuleError."""
    return _first_after(rule, moment, timedelta(0))


def first_at_or_after(rule: Rule, moment: datetime) -> datetime | None:
    """As `next_after`, but `moment` itself may be it."""
    return _first_after(rule, moment, wall_clock.TICK)


def _first_after(rule: Rule, moment: datetime, margin: timedelta) -> datetime | None:
    # In UTC, since Python subtracts and compares moments of one zone as the clock on the wall shows them.
    try:
        return _next_after(rule, rule.anchor.astimezone(UTC), max(moment, EARLIEST).astimezone(UTC) - margin)
    except OverflowError:
        return None


def _next_after(rule: Rule, anchor: datetime, moment: datetime) -> datetime | None:
    _check_kind(rule.kind)
    if rule.kind == ONCE:
        return anchor if anchor > moment else None
    if rule.kind in {MINUTES, HOURLY}:
        step = timedelta(minutes=60 if rule.kind == HOURLY else whole_minutes(rule.minutes))
        return anchor + ((moment - anchor) // step + 1) * step
    if rule.kind == CRON:
        line = _line(rule.cron)
        if line.is_elapsed:
            return _next_shown(line, rule.zone, moment)
        wall = line.first(wall_clock.not_reached(rule.zone, moment))
    else:
        start = wall_clock.not_reached(rule.zone, moment)
        wall = _by_calendar(rule.kind, anchor.astimezone(rule.zone).replace(tzinfo=None, fold=0), start)
    return None if wall is None else wall_clock.first_shown(rule.zone, wall)


def _check_kind(kind: object) -> None:
    if not isinstance(kind, str) or kind not in KINDS:
        raise RuleError(f"There is no schedule type {short(kind)}: choose one of {', '.join(sorted(KINDS))}")


def _line(cron: object) -> cron_lines.Line:
    if not isinstance(cron, str):
        raise RuleError(f"The cron line is {short(cron)}: a schedule of type Cron needs one")
    return cron_lines.read(cron)


def _by_calendar(kind: str, anchor: datetime, start: datetime) -> datetime:
    """The first time of the wall clock at or after `start`, by days or months from the anchor."""
    if kind in DAYS:
        step = timedelta(days=DAYS[kind])
        return anchor - (anchor - start) // step * step
    months = MONTHS[kind]
    steps = (12 * (start.year - anchor.year) + start.month - anchor.month) // months
    wall = _months_later(anchor, steps * months)
    return wall if wall >= start else _months_later(anchor, (steps + 1) * months)


def _months_later(anchor: datetime, months: int) -> datetime:
    """The anchor's day in another month, or the last day of a month that does not have it."""
    year, month = divmod(12 * anchor.year + anchor.month - 1 + months, 12)
    if not MINYEAR <= year <= MAXYEAR:
        raise OverflowError(year)
    return anchor.replace(year=year, month=month + 1, day=min(anchor.day, monthrange(year, month + 1)[1]))


def _next_shown(line: cron_lines.Line, zone: ZoneInfo, moment: datetime) -> datetime | None:
    """The first moment after `moment` at which the clock shows a time that the line names, be it for the second time."""
    starts = wall_clock.still_to_show(zone, moment)
    return min((found for start in starts if (found := _shown_from(line, zone, start, moment)) is not None), default=None)


def _shown_from(line: cron_lines.Line, zone: ZoneInfo, start: datetime, moment: datetime) -> datetime | None:
    last_year = (
        start.year + cron_lines.CYCLE
    )  # all times of a line may be in gaps: 2 a.m. on the last Sunday of March, in Berlin
    while (wall := line.first(start)) is not None and wall.year <= last_year:
        later = [shown for shown in wall_clock.shown(zone, wall) if shown > moment]
        if later:
            return later[0]
        start = max(wall_clock.after_gap(zone, wall), wall + line.unit)
    return None
