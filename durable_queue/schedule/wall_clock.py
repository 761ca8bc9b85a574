"""A clock on the wall of a time zone: when it shows a time, which times it skips and which it shows twice.

`zoneinfo` tells the offset at a moment, but not when the next change is. All that is needed here follows from two
offsets: those before and after the change that a skipped or repeated time belongs to. (PEP 495 has the rules of `fold`.)
All wall-clock times are naive, all moments aware. Beyond the years 1 to 9999, every function raises OverflowError.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

TICK = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)


def first_shown(zone: ZoneInfo, wall: datetime) -> datetime:
    """The moment at which the clock reaches `wall`: the first of two; the end of the gap for a time that is skipped."""
    early, late = _offsets(zone, wall)
    if early < late:
        return _change(zone, _moment(wall, late), _moment(wall, early))
    return _moment(wall, early)


def shown(zone: ZoneInfo, wall: datetime) -> list[datetime]:
    """The moments at which the clock shows `wall`, in order: one, two if it is repeated, none if it is skipped."""
    early, late = _offsets(zone, wall)
    if early < late:
        return []
    return [_moment(wall, offset) for offset in dict.fromkeys((early, late))]


def after_gap(zone: ZoneInfo, wall: datetime) -> datetime:
    """The first time shown after the gap in which `wall` lies."""
    return _read(zone, first_shown(zone, wall))


def not_reached(zone: ZoneInfo, moment: datetime) -> datetime:
    """The earliest time that the clock has not reached at `moment`, nor before: `first_shown` of it is later."""
    wall = _local(zone, moment)
    if wall.fold:  # all times up to the end of the repeated hour were reached when it came for the first time
        early, late = _offsets(zone, wall.replace(tzinfo=None))
        return _read(zone, _change(zone, moment - (early - late), moment) - SECOND) + SECOND
    return wall.replace(tzinfo=None) + TICK


def still_to_show(zone: ZoneInfo, moment: datetime) -> list[datetime]:
    """The times from which the clock goes on after `moment`: the next, and that to which it is put back, if it repeats."""
    wall = _local(zone, moment).replace(tzinfo=None)
    starts = [wall + TICK]
    early, late = _offsets(zone, wall)
    if early > late and not _local(zone, moment).fold:
        starts.append(_read(zone, _change(zone, moment, moment + (early - late))))
    return starts


def _offsets(zone: ZoneInfo, wall: datetime) -> tuple[timedelta, timedelta]:
    """The offsets before and after the change to which `wall` belongs. The same twice: it belongs to none."""
    early, late = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    if early is None or late is None:
        raise AssertionError(f"{zone} has no offset")
    return early, late


def _moment(wall: datetime, offset: timedelta) -> datetime:
    return (wall - offset).replace(tzinfo=UTC, fold=0)


def _local(zone: ZoneInfo, moment: datetime) -> datetime:
    return moment.astimezone(UTC).astimezone(zone)


def _read(zone: ZoneInfo, moment: datetime) -> datetime:
    return _local(zone, moment).replace(tzinfo=None, fold=0)


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The first moment after `before`, and not later than `after`, with another offset than at `before`: at most 17 looks."""
    before = before.replace(microsecond=0)  # the clocks change at whole seconds
    offset = _local(zone, before).utcoffset()
    low, high = 0, -((before - after) // SECOND)
    while high - low > 1:
        middle = (low + high) // 2
        if _local(zone, before + middle * SECOND).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return (before + high * SECOND).astimezone(UTC)
