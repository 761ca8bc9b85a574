"""The rule of a schedule: when it runs next, by arithmetic."""

import contextlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from croniter import CroniterBadDateError, croniter
from django_q.models import Schedule

from durable_queue.schedule import cron as cron_lines
from durable_queue.schedule import rule as rules
from durable_queue.schedule.rule import Rule, RuleError, check, first_at_or_after, next_after
from tests.support.check_schedules import disagreement
from tests.support.random_rules import random_case
from tests.support.selection import once

pytestmark = once

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    """A moment as a clock on the wall shows it: `2026-03-29 02:30`. With `+01:00` at its end, the one that has this offset."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def rule(
    kind: str, anchor: str = "2026-01-01", zone: ZoneInfo = BERLIN, *, minutes: int | None = None, cron: str | None = None
) -> Rule:
    """A rule with an anchor of its zone."""
    return Rule(kind, minutes, cron, zone, at(anchor, zone))


def cron(line: str, zone: ZoneInfo = BERLIN) -> Rule:
    """The rule of a cron line."""
    return rule("C", zone=zone, cron=line)


def runs(rule: Rule, after: str, count: int) -> list[str]:
    """The next runs, as the zone's clock shows them, without the offset."""
    moment = at(after, rule.zone)
    shown: list[str] = []
    for _ in range(count):
        following = next_after(rule, moment)
        if following is None:
            return [*shown, "never again"]
        assert following > moment
        assert following.tzinfo is UTC
        assert first_at_or_after(rule, following) == following
        shown.append(f"{following.astimezone(rule.zone).replace(tzinfo=None):%Y-%m-%d %H:%M:%S}".removesuffix(":00"))
        moment = following
    return shown


def hours(rule: Rule, after: str, count: int) -> list[str]:
    """The next runs by the hours that the clock shows, with the offset."""
    moment = at(after, rule.zone)
    shown: list[str] = []
    for _ in range(count):
        following = next_after(rule, moment)
        assert following is not None
        shown.append(f"{following.astimezone(rule.zone):%H:%M %z}".removesuffix("00"))
        moment = following
    return shown


# The walk along the clock


def test_rule__agrees_with_a_walk_along_the_clock() -> None:
    start = random.SystemRandom().randrange(1_000_000)
    differences = {seed: disagreement(random_case(seed)) for seed in range(start, start + 300)}
    assert not {seed: difference for seed, difference in differences.items() if difference}


def test_kinds__are_those_of_the_model() -> None:
    assert {kind for kind, _ in Schedule.TYPE} == rules.KINDS
    names = {"ONCE": rules.ONCE, "MINUTES": rules.MINUTES, "HOURLY": rules.HOURLY, "CRON": rules.CRON}
    assert {name: getattr(Schedule, name) for name in names} == names
    assert {Schedule.DAILY: 1, Schedule.WEEKLY: 7, Schedule.BIWEEKLY: 14} == rules.DAYS
    assert {Schedule.MONTHLY: 1, Schedule.BIMONTHLY: 2, Schedule.QUARTERLY: 3, Schedule.YEARLY: 12} == rules.MONTHS


# The clock on the wall


@pytest.mark.parametrize("of", [rule("D", "2026-01-01 02:30"), cron("30 2 * * *")], ids=["daily", "cron"])
def test_wall_clock__is_kept_after_a_time_that_is_skipped(of: Rule) -> None:
    assert runs(of, "2026-03-28 02:00", 3) == ["2026-03-28 02:30", "2026-03-29 03:00", "2026-03-30 02:30"]


@pytest.mark.parametrize("of", [rule("D", "2026-01-01 02:30"), cron("30 2 * * *")], ids=["daily", "cron"])
def test_wall_clock__a_repeated_time_runs_when_it_comes_first(of: Rule) -> None:
    assert hours(of, "2026-10-24 12:00", 2) == ["02:30 +02", "02:30 +01"]
    assert runs(of, "2026-10-24 12:00", 2) == ["2026-10-25 02:30", "2026-10-26 02:30"]
    assert next_after(of, at("2026-10-25 02:10+01:00")) == at("2026-10-26 02:30")  # the second hour has begun


def test_wall_clock__the_last_second_before_the_hour_is_repeated() -> None:
    of = cron("59 2 * * * 59")
    assert next_after(of, at("2026-10-25 02:10+01:00")) == at("2026-10-26 02:59:59")
    assert next_after(of, at("2026-10-25 02:59:59+02:00")) == at("2026-10-26 02:59:59")


def test_wall_clock__an_anchor_in_the_second_hour_is_the_first_next_time() -> None:
    of = Rule("D", None, None, BERLIN, at("2025-10-26 02:30+01:00"))
    assert hours(of, "2026-10-24 12:00", 2) == ["02:30 +02", "02:30 +01"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0,30 2 * * *", ["2026-03-29 03:00", "2026-03-30 02:00"]),
        ("0 2,3 * * *", ["2026-03-29 03:00", "2026-03-30 02:00"]),
        ("0-59 2 * * *", ["2026-03-29 03:00", "2026-03-30 02:00"]),
        ("30 1-3 * * *", ["2026-03-29 01:30", "2026-03-29 03:00", "2026-03-29 03:30", "2026-03-30 01:30"]),
        ("10 2 * * * */20", ["2026-03-29 03:00", "2026-03-30 02:10", "2026-03-30 02:10:20"]),
    ],
)
def test_wall_clock__never_twice_at_one_instant(line: str, expected: list[str]) -> None:
    assert runs(cron(line), "2026-03-29 00:00", len(expected)) == expected


@pytest.mark.parametrize(
    ("zone", "of", "after", "expected"),
    [
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03 12:00", ["2026-10-04 02:30", "2026-10-05 02:15"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04 12:00", ["2026-04-05 01:45", "2026-04-06 01:45"]),
        ("Pacific/Apia", "0 10 * * *", "2011-12-29 09:00", ["2011-12-29 10:00", "2011-12-31 00:00", "2011-12-31 10:00"]),
        ("America/Sao_Paulo", "0 0 * * *", "2018-11-03 12:00", ["2018-11-04 01:00", "2018-11-05 00:00"]),
        ("America/Havana", "30 0 * * *", "2025-11-01 12:00", ["2025-11-02 00:30", "2025-11-03 00:30"]),
        ("Africa/Casablanca", "30 2 * * *", "2026-02-14 12:00", ["2026-02-15 02:30", "2026-02-16 02:30"]),
        ("Antarctica/Troll", "30 1 * * *", "2026-03-28 12:00", ["2026-03-29 03:00", "2026-03-30 01:30"]),
    ],
)
def test_wall_clock__of_uncommon_zones(zone: str, of: str, after: str, expected: list[str]) -> None:
    assert runs(cron(of, ZoneInfo(zone)), after, len(expected)) == expected
    hour_and_minute = ":".join(f"{int(field):02}" for field in reversed(of.split()[:2]))
    daily = rule("D", f"2010-01-05 {hour_and_minute}", ZoneInfo(zone))
    assert runs(daily, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("kind", "anchor", "expected"),
    [
        ("W", "2026-03-22 02:30", ["2026-03-29 03:00", "2026-04-05 02:30"]),
        ("BW", "2026-03-15 02:30", ["2026-03-29 03:00", "2026-04-12 02:30"]),
        ("M", "2026-01-31 09:00", ["2026-03-31 09:00", "2026-04-30 09:00", "2026-05-31 09:00"]),
        ("BM", "2025-12-31 09:00", ["2026-04-30 09:00", "2026-06-30 09:00", "2026-08-31 09:00"]),
        (
            "Q",
            "2025-11-30 09:00",
            ["2026-05-30 09:00", "2026-08-30 09:00", "2026-11-30 09:00", "2027-02-28 09:00", "2027-05-30 09:00"],
        ),
        ("Y", "2024-02-29 09:00", ["2027-02-28 09:00", "2028-02-29 09:00", "2029-02-28 09:00"]),
    ],
)
def test_calendar__keeps_the_day(kind: str, anchor: str, expected: list[str]) -> None:
    assert runs(rule(kind, anchor), "2026-03-22 02:30", len(expected)) == expected


def test_calendar__monthly_from_the_31st_in_february() -> None:
    assert runs(rule("M", "2026-01-31 02:30"), "2026-01-31 02:30", 3) == [
        "2026-02-28 02:30",
        "2026-03-31 02:30",
        "2026-04-30 02:30",
    ]


def test_calendar__seconds_of_the_anchor_are_kept() -> None:
    of = rule("D", "2026-01-01 02:30:27.000250")
    assert next_after(of, at("2026-03-28 12:00")) == at("2026-03-29 03:00")
    assert next_after(of, at("2026-03-29 03:00")) == at("2026-03-30 02:30:27.000250")


def test_zone__decides_the_day() -> None:
    anchor = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)  # 1 February in Berlin
    assert next_after(Rule("M", None, None, BERLIN, anchor), anchor) == at("2026-03-01 00:30")
    assert next_after(Rule("M", None, None, ZoneInfo("UTC"), anchor), anchor) == datetime(2026, 2, 28, 23, 30, tzinfo=UTC)


# Elapsed time


@pytest.mark.parametrize(
    "of",
    [rule("H", "2026-01-01 00:30"), rule("I", "2026-01-01 00:30", minutes=60), cron("30 * * * *"), cron("30 */1 * * *")],
    ids=["hourly", "minutes", "cron", "steps"],
)
def test_elapsed_time__goes_on_at_a_change_of_the_clock(of: Rule) -> None:
    assert hours(of, "2026-10-25 01:00", 4) == ["01:30 +02", "02:30 +02", "02:30 +01", "03:30 +01"]
    assert hours(of, "2026-03-29 01:00", 3) == ["01:30 +01", "03:30 +02", "04:30 +02"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("*/30 2 * * *", ["02:00 +02", "02:30 +02", "02:00 +01", "02:30 +01"]),
        ("15 */2 * * *", ["02:15 +02", "02:15 +01", "04:15 +01"]),
        ("5,*/30 2 * * *", ["02:00 +02", "02:05 +02", "02:30 +02", "02:00 +01"]),
        ("@hourly", ["02:00 +02", "02:00 +01", "03:00 +01"]),
        ("0 0-23 * * *", ["02:00 +02", "03:00 +01"]),
    ],
)
def test_elapsed_time__of_cron_lines_in_the_repeated_hour(line: str, expected: list[str]) -> None:
    assert hours(cron(line), "2026-10-25 01:59", len(expected)) == expected


def test_elapsed_time__does_not_come_when_the_clock_skips_it() -> None:
    assert runs(cron("*/30 2 * * *"), "2026-03-28 02:30", 1) == ["2026-03-30 02:00"]
    assert runs(cron("0 */2 * * *"), "2026-03-29 00:00", 2) == ["2026-03-29 04:00", "2026-03-29 06:00"]


def test_elapsed_time__a_line_whose_times_are_all_skipped_never_comes() -> None:
    begin = time.perf_counter()
    assert runs(cron("*/5 2 * 3 L7"), "2026-01-01", 1) == ["never again"]
    assert time.perf_counter() - begin < 1


def test_elapsed_time__a_day_that_is_skipped_is_not_searched() -> None:
    begin = time.perf_counter()
    assert runs(cron("* * 30 * * *", ZoneInfo("Pacific/Apia")), "2011-12-01", 1) == ["2012-01-30 00:00"]
    assert time.perf_counter() - begin < 0.5


def test_elapsed_time__between_the_two_hours() -> None:
    of = cron("20 * * * *")
    assert next_after(of, at("2026-10-25 02:20+02:00")) == at("2026-10-25 02:20+01:00")
    assert first_at_or_after(of, at("2026-10-25 02:20+01:00")) == at("2026-10-25 02:20+01:00")


@pytest.mark.parametrize(("minutes", "expected"), [(None, 1), (0, 1), (7, 7), (32767, 32767), ("5", 5)])
def test_minutes__are_counted_from_the_anchor(minutes: object, expected: int) -> None:
    of = Rule("I", minutes, None, BERLIN, at("2026-01-01 00:00"))  # type: ignore[arg-type]
    check("I", minutes, None)
    assert next_after(of, of.anchor) == of.anchor + timedelta(minutes=expected)
    assert next_after(of, of.anchor + timedelta(minutes=expected, microseconds=-1)) == of.anchor + timedelta(minutes=expected)


def test_moments__may_be_of_the_rules_own_zone() -> None:
    """Python subtracts and compares moments of one zone as the clock on the wall shows them."""
    of = rule("H", "2026-01-01 00:30")
    for moment in (at("2026-10-25 01:10"), at("2026-10-25 02:10+01:00").astimezone(BERLIN), at("2026-07-01 00:10")):
        assert next_after(of, moment) == moment.astimezone(UTC) + timedelta(minutes=20)
    second = at("2026-10-25 02:00+01:00").astimezone(BERLIN)
    assert first_at_or_after(cron("0 * * * *"), second) == second.astimezone(UTC)
    once = rule("O", "2026-10-25 02:30")
    assert next_after(once, at("2026-10-25 02:10+01:00").astimezone(BERLIN)) is None


# The same time whatever the lag


@pytest.mark.parametrize(
    "of",
    [rule("I", "2020-01-01"), rule("D", "1975-01-01 02:30"), rule("M", "1975-01-31"), cron("* * * * *"), cron("30 2 29 2 *")],
    ids=["minutely", "daily", "monthly", "minutely cron", "29 February"],
)
def test_lag__costs_nothing(of: Rule) -> None:
    next_after(of, at("2026-01-01"))  # read the line
    begin = time.perf_counter()
    for _ in range(1000):
        next_after(of, at("2026-11-28 12:34:56"))
    assert time.perf_counter() - begin < 1  # 10 to 30 ms


# The ends of time


KINDS = [rule(kind, "2026-01-31 02:30", minutes=5, cron="* * * * *") for kind in sorted(rules.KINDS)]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "UTC", "Pacific/Kiritimati"])
@pytest.mark.parametrize("of", KINDS, ids=[of.kind for of in KINDS])
def test_ends_of_time__are_no_error(of: Rule, zone: str) -> None:
    last, earliest = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
    for anchor in (of.anchor, last, earliest):
        there = Rule(of.kind, of.minutes, of.cron, ZoneInfo(zone), anchor)
        assert next_after(there, last) is None
        for moment in (earliest, last - timedelta(hours=20), last - timedelta(days=400)):
            following = next_after(there, moment)
            assert following is None or following > moment
            first_at_or_after(there, moment)


def test_ends_of_time__the_last_runs_are_made() -> None:
    assert next_after(rule("D", "2026-01-01 02:30"), at("9999-12-29 12:00")) == at("9999-12-30 02:30")
    assert next_after(rule("M", "2026-01-31 02:30"), at("9999-12-15")) == at("9999-12-31 02:30")
    assert next_after(rule("M", "2026-01-31 02:30"), at("9999-12-31 03:00")) is None
    assert next_after(cron("0 0 1 1 *"), at("9999-01-01 00:00")) is None


def test_once__runs_at_its_anchor() -> None:
    of = rule("O", "2026-05-05 12:00")
    assert next_after(of, at("2026-05-05 11:59")) == first_at_or_after(of, of.anchor) == of.anchor
    assert next_after(of, of.anchor) is None


# Cron lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("@hourly", "2026-05-05 13:00"),
        ("@Midnight", "2026-05-06 00:00"),
        ("@daily", "2026-05-06 00:00"),
        ("@weekly", "2026-05-10 00:00"),
        ("@monthly", "2026-06-01 00:00"),
        ("@yearly", "2027-01-01 00:00"),
        ("@annually", "2027-01-01 00:00"),
        ("  0   9  *  *  MON-FRI ", "2026-05-06 09:00"),
        ("0 9 l * *", "2026-05-31 09:00"),
        ("0 9 15w * ?", "2026-05-15 09:00"),
        ("0 9 31W * ?", "2026-05-29 09:00"),
        ("0 9 1W 8 ?", "2026-08-03 09:00"),
        ("0 9 * * L5", "2026-05-29 09:00"),
        ("0 9 * * L1", "2026-05-25 09:00"),
        ("0 9 * * 1#2", "2026-05-11 09:00"),
        ("0 9 13 * fri", "2026-05-08 09:00"),  # either will do
        ("0 9 * * 7", "2026-05-10 09:00"),
        ("0 9 * nov-feb *", "2026-11-01 09:00"),
        ("0 9 29 2 *", "2028-02-29 09:00"),
        ("* * * * * */15", "2026-05-05 12:00:45"),
        ("0 0 1 1 * 0 2055", "2055-01-01 00:00"),
        ("59/15 * * * *", "2026-05-05 12:59"),
    ],
)
def test_cron__is_read_as_django_q2_reads_it(line: str, expected: str) -> None:
    check("C", None, line)
    assert runs(cron(line), "2026-05-05 12:00:30", 1) == [expected]


def test_cron__means_what_croniter_reckons_where_no_clock_changes() -> None:
    moment = datetime(2026, 5, 5, 12, 34, 56, tzinfo=UTC)
    start = random.SystemRandom().randrange(1_000_000)
    differences = []
    for seed in range(start, start + 400):
        line = random_case(seed).rule.cron
        if line is None:
            continue
        expected = reckoned = None
        with contextlib.suppress(CroniterBadDateError):
            expected = croniter(line, moment).get_next(datetime)
        with contextlib.suppress(RuleError):
            reckoned = next_after(cron(line, ZoneInfo("UTC")), moment)
        if reckoned != expected and not (
            expected is None and reckoned and reckoned.year > 2075
        ):  # croniter looks 50 years ahead
            differences.append((line, reckoned, expected))
    assert not differences


def test_cron__with_years_makes_its_last_run_and_no_other() -> None:
    of = cron("0 12 31 12 * 0 2025-2026")
    assert runs(of, "2025-06-01", 3) == ["2025-12-31 12:00", "2026-12-31 12:00", "never again"]
    check("C", None, of.cron)  # its last run may be late
    check("C", None, "0 0 1 1 * 0 1999")
    check("C", None, of.cron, after=at("2026-12-31 11:59"))
    with pytest.raises(RuleError, match="its years are over"):
        check("C", None, of.cron, after=at("2027-01-01"))
    check("C", None, "0 0 1 1 * 0 2055", after=at("2026-01-01"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0 31 2 *", "never comes"),
        ("0 0 30,31 feb ?", "never comes"),
        ("0 0 29 2 * 0 2025-2027", "never comes"),
        ("0 0 1 * 1#2", "never comes"),
        ("R * * * *", "another time at each look"),
        ("0 r(1-5)/2 * * *", "another time at each look"),
        ("H * * * *", "malformed"),
        ("99 * * * *", r"malformed: .* out of range"),
        ("* * * *", "malformed: Exactly 5, 6 or 7 columns"),
        ("* * * * * * 1969", "malformed"),
        ("", "malformed"),
        ("@reboot", "malformed"),
        ("every day", "malformed"),
        ("\0 * * * \ud800", "malformed"),
        (" ".join([",".join(["1-59"] * 300), "* * * *"]), "characters: write at most 1000"),
        (None, "needs one"),
        (7, "needs one"),
    ],
)
def test_cron__is_refused(line: object, reason: str) -> None:
    with pytest.raises(RuleError, match=reason) as caught:
        check("C", None, line)
    text = str(caught.value)
    assert text.isprintable()  # it is stored, and shown
    assert text.encode()
    assert len(text) < 1000
    with pytest.raises(RuleError):
        next_after(Rule("C", None, line, BERLIN, at("2026-01-01")), at("2026-01-01"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    [
        "9" * 5000,
        "1/" * 499,
        "1-" * 499,
        ("," * 900) + " * * * *",
        "(" * 900,
        "* * * * " + "mon-fri#2," * 90 + "1#1",
        "0 0 31W 2 L7",
    ],
    ids=range(7),
)
def test_cron__hostile_lines_take_no_time(line: str) -> None:
    begin = time.perf_counter()
    with contextlib.suppress(RuleError):
        assert next_after(cron(line), at("2026-01-01")) is not None
    assert time.perf_counter() - begin < 0.5


def test_cron__threads_share_a_line() -> None:
    lines = [f"{minute} 2 * * mon#1,tue#2" for minute in range(60)]
    expected = [next_after(cron(line), at("2026-05-05")) for line in lines]
    cron_lines.read.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: [next_after(cron(line), at("2026-05-05")) for line in lines], range(24)))
    assert answers == [expected] * 24


def test_cron__without_croniter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cron_lines, "croniter", None)
    cron_lines.read.cache_clear()
    with pytest.raises(RuleError, match="pip install croniter"):
        check("C", None, "0 0 * * *")


# What can never be computed


@pytest.mark.parametrize("kind", ["", "Z", "d", None, 7, [], "\0"])
def test_kind__unknown_is_refused(kind: object) -> None:
    with pytest.raises(RuleError, match=r"There is no schedule type .*: choose one of"):
        check(kind, None, None)  # type: ignore[arg-type]
    with pytest.raises(RuleError, match="There is no schedule type"):
        next_after(Rule(kind, None, None, BERLIN, at("2026-01-01")), at("2026-01-01"))  # type: ignore[arg-type]


REFUSED = [-1, -(10**5000), 1.5, "x", "1.5", float("inf"), float("nan"), Decimal("0.5"), [], object(), "9" * 5000]


@pytest.mark.parametrize("minutes", REFUSED, ids=range(len(REFUSED)))
def test_minutes__refused(minutes: object) -> None:
    with pytest.raises(RuleError, match="write a whole number"):
        check("I", minutes, None)


@pytest.mark.parametrize("minutes", [1, "5", 5.0, Decimal(5), True, None, 0, 10**30])
def test_minutes__that_can_be_computed(minutes: object) -> None:
    check("I", minutes, None)
    next_after(Rule("I", minutes, None, BERLIN, at("2026-01-01")), at("2026-01-01"))  # type: ignore[arg-type]


def test_fields__that_the_kind_does_not_use_are_not_looked_at() -> None:
    check("D", "x", "99 * * * *")
    check("C", -1, "0 0 * * *")
    check("I", 5, None)
