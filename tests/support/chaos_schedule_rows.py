"""Schedules of every kind with the runs that each must have, and schedules that are broken in every way that a row can be.

What is expected follows from how the rows are made, and from no scheduler's rule: within some minutes a schedule runs once,
at the moment for which it was made, or each so many seconds.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.utils import timezone
from django_q.models import Schedule
from django_q.tasks import schedule

TASKS = "tests.support.schedule_tasks."
ONE_RUN = "HDWMQY"  # the kinds whose next run comes an hour later at the earliest; and these two
ONE_RUN_KINDS = [*ONE_RUN, Schedule.BIWEEKLY, Schedule.BIMONTHLY]
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Good:
    """A schedule, and what it must do from `next_run` on until the end."""

    fields: dict[str, Any]
    runs: list[datetime]


def _every(first: datetime, step: timedelta, until: datetime, most: int = -1) -> list[datetime]:
    runs: list[datetime] = []
    while first < until and len(runs) != most:
        runs.append(first)
        first += step
    return runs


def good(number: int, begin: datetime, until: datetime) -> Good:
    """The schedule with this number, one kind after the other. Its first run is between `begin` and `until`."""
    first = begin + random.random() * (until - begin - SECOND)
    full_minute = first.replace(second=0, microsecond=0) + timedelta(minutes=1)
    local = timezone.localtime(full_minute)
    kinds: list[tuple[dict[str, Any], list[datetime]]] = [
        ({"schedule_type": Schedule.ONCE, "next_run": first}, [first]),
        ({"schedule_type": ONE_RUN_KINDS[number // 8 % len(ONE_RUN_KINDS)], "next_run": first}, [first]),
        (
            {"schedule_type": Schedule.MINUTES, "minutes": 1, "next_run": first},
            _every(first, timedelta(minutes=1), until),
        ),
        (
            {"schedule_type": Schedule.MINUTES, "minutes": 2, "repeats": 2, "next_run": first},
            _every(first, timedelta(minutes=2), until, 2),
        ),
        ({"schedule_type": Schedule.HOURLY, "repeats": 1, "next_run": first}, [first]),
        (
            {"schedule_type": Schedule.CRON, "cron": "* * * * *", "next_run": full_minute},
            _every(full_minute, timedelta(minutes=1), until),
        ),
        (
            {"schedule_type": Schedule.CRON, "cron": f"{local:%M %H} * * *", "next_run": full_minute},
            _every(full_minute, timedelta(days=1), until),
        ),
        (
            {"schedule_type": Schedule.CRON, "cron": f"{local:%M} * * * *", "next_run": full_minute},
            _every(full_minute, timedelta(hours=1), until),
        ),
    ]
    fields, runs = kinds[number % len(kinds)]
    call = {"func": f"{TASKS}note_run", "args": f"{number}", "intended_date_kwarg": "at", "name": f"good {number}"}
    return Good(call | fields, runs)


def add_good(number: int, fields: dict[str, Any], rows: list[Schedule]) -> None:
    """Make a good schedule in one of the ways to make one; `rows` gathers those that are made in bulk."""
    if number % 20 == 1:
        own = {name: value for name, value in fields.items() if name not in ("func", "args")}
        schedule(fields["func"], number, **own)
    elif number % 20 == 2:
        Schedule.objects.create(**fields)
    else:
        rows.append(Schedule(**fields))


def broken() -> Iterator[dict[str, Any]]:
    """The fields by which broken schedules differ from a good one that is due; one after the other, again and again."""
    cron = {"schedule_type": Schedule.CRON}
    ways: list[dict[str, Any]] = [
        {"args": "bare text"},
        {"args": "Decimal('3'), 4"},
        {"args": "datetime.datetime(2026, 1, 1)"},
        {"args": "(" * 90},
        {"args": "[" * 5000 + "]" * 5000},
        {"args": "1, 2, 3, 4, 5"},
        {"args": "\u202e\\"},
        {"kwargs": "a=b=c"},
        {"kwargs": "{1: 2}"},
        {"kwargs": "{'q_options': 3}"},
        {"kwargs": "{'q_options': {'hook': 7, 'broker': 'none', 'cluster': 9}}"},
        {"kwargs": "[1, 2]"},
        {"kwargs": "unknown=1"},
        {"intended_date_kwarg": "no name!"},
        {"intended_date_kwarg": "number"},
        cron | {"cron": None},
        cron | {"cron": ""},
        cron | {"cron": "nonsense"},
        cron | {"cron": "0 0 31 2 *"},
        cron | {"cron": "61 * * * *"},
        cron | {"cron": "* * *"},
        {"schedule_type": "ZZ"},
        {"schedule_type": ""},
        {"func": ""},
        {"func": "no dots"},
        {"func": "tests.nowhere.task"},
        {"func": f"{TASKS}missing"},
        {"func": "tests.support.raises_on_import.task"},
        {"func": f"{TASKS}fail"},
        {"func": "tests.support.cluster_tasks.exit_politely"},
        {"hook": "tests.nowhere.hook"},
        {"hook": "no dots"},
        {"next_run": None},
        {"next_run": datetime(9999, 12, 31, 23, tzinfo=timezone.get_default_timezone())},
        {"next_run": timezone.now() - timedelta(days=6 * 365), "schedule_type": Schedule.WEEKLY},
        {"next_run": timezone.now() - timedelta(days=2), "schedule_type": Schedule.MINUTES, "minutes": 0, "repeats": 500},
        {"schedule_type": Schedule.MINUTES, "minutes": None, "repeats": 2},
        {"repeats": 0},
        {"repeats": -1_000_000, "schedule_type": Schedule.YEARLY},
        {"cluster": "a cluster that nobody serves"},
        {"name": "\u0301" * 100},
        {"name": None, "args": "bare text"},
    ]
    number = 0
    while True:
        fields = {
            "func": f"{TASKS}fail",
            "schedule_type": Schedule.HOURLY,
            "next_run": timezone.now(),
            "name": f"broken {number}",
        }
        yield fields | ways[number % len(ways)]
        number += 1


def add_broken(count: int) -> list[int]:
    """Make so many broken schedules, and some more that hold what only SQL can write. Returns the ids of all."""
    made: Sequence[Schedule] = Schedule.objects.bulk_create(
        [Schedule(**fields) for fields, _ in zip(broken(), range(count), strict=False)], batch_size=50
    )
    if connection.vendor == "postgresql":
        values = [("next_run", "infinity"), ("next_run", "-infinity"), ("next_run", "0044-03-15 12:00:00+00 BC")]
        values += [("repeats", "-2147483648"), ("minutes", "32767")]
    else:
        values = [("next_run", "nonsense"), ("next_run", ""), ("next_run", "2026-13-45 00:00:00"), ("next_run", "7")]
        values += [("repeats", "many"), ("minutes", "x"), ("args", "\0"), ("func", "\0")]
    rows = Schedule.objects.bulk_create(
        [Schedule(func=f"{TASKS}fail", schedule_type=Schedule.MINUTES, name=f"written {n}") for n in range(len(values))]
    )
    with connection.cursor() as cursor:
        for row, (column, value) in zip(rows, values, strict=True):
            cursor.execute(f"UPDATE django_q_schedule SET {column} = %s WHERE id = %s", [value, row.pk])  # noqa: S608 - see above
    return [row.pk for row in (*made, *rows)]
