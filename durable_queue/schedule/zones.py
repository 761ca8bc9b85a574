"""The time zones whose clocks on the wall schedules may follow."""

from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from durable_queue.schedule.due import zone_name
from durable_queue.schedule.errors import RuleError, short


def zone_named(name: str) -> ZoneInfo:
    """The zone; "" stands for the default. Raises RuleError if there is none of this name."""
    name = zone_name(name)
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:  # a folder's name, such as "Europe", is an OSError
        raise RuleError(f"There is no time zone {short(name)}: write one such as Europe/Berlin") from error


@cache
def zone_names() -> tuple[str, ...]:
    """The names of all zones that this machine knows."""
    return tuple(sorted(available_timezones() - {"localtime"}))
