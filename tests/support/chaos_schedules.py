"""Thousands of schedules, good ones among broken ones, while what runs them is killed: a scenario of `scripts/chaos`."""

import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
import psutil
from django.db import Error as DatabaseError
from django.db import connection, connections
from django.utils import timezone
from django_q.models import Schedule

from durable_queue.models import Worker
from durable_queue.task.identifiers import queued_at
from tests.support import environment
from tests.support.chaos_cluster import FOLDER, WORKERS, cluster, percentile, upkeep_of, workers_of
from tests.support.chaos_schedule_rows import Good, add_broken, add_good, good
from tests.support.processes import free_port, wait_until, web

LATE = 2.0  # seconds after its time that a run may be queued while a cluster is up
LATE_AFTER_START = 5.0  # … after the first cluster is up again
LATEST_POST = 1.0  # seconds until a POST is answered
SILENT = 6.0  # seconds without a heartbeat, of a cluster that was not killed meanwhile


@dataclass
class Site:
    """A cluster that is killed as a whole and started again, and when (seconds since 1970) it was up."""

    number: int
    up: list[tuple[float, float]] = field(default_factory=list)
    kills: int = 0
    _began: float = 0.0
    _stack: ExitStack = field(default_factory=ExitStack)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def supervisor(self) -> psutil.Process:
        """Its topmost process."""
        assert self._process
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Start it; returns once it is up."""
        self._process = self._stack.enter_context(cluster())
        wait_until(lambda: len(workers_of(self.supervisor)) == WORKERS, timeout=30, what="its workers work")
        self._began = time.time()

    def kill(self) -> None:
        """Kill all its processes at once."""
        self._note_up()
        processes = [self.supervisor, *self.supervisor.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._stack.close()
        self.kills += 1

    def kill_upkeep(self) -> bool:
        """Kill its upkeep process; return whether there was one."""
        with contextlib.suppress(psutil.Error, IndexError):
            upkeep_of(self.supervisor)[0].kill()
            return True
        return False

    def stop(self) -> None:
        """Stop it."""
        self._note_up()
        self._stack.close()

    def _note_up(self) -> None:
        self.up.append((self._began, time.time()))


@dataclass
class Posts:
    """A POST each twentieth of a second, and each cluster's heartbeats meanwhile."""

    url: str
    took: list[float] = field(default_factory=list)
    refused: int = 0
    silent: float = 0.0
    is_over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Post until it is over."""
        with httpx.Client(timeout=30) as client:
            while not self.is_over.wait(0.05):
                began = time.monotonic()
                self.refused += client.post(f"{self.url}/send-notification/alice").status_code != 200
                self.took.append(time.monotonic() - began)
        connections.close_all()

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Meanwhile, they come in."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.is_over.set()
            thread.join(30)

    def look_at_heartbeats(self) -> None:
        """Note the oldest one; to be called while no cluster is dead."""
        now = timezone.now()
        with contextlib.suppress(DatabaseError):
            for heartbeat in Worker.objects.values_list("heartbeat", flat=True):
                self.silent = max(self.silent, (now - heartbeat).total_seconds())


def schedules(quick: bool) -> str:
    """Schedules of every kind beside broken ones, with kills of upkeep and of clusters: each good run comes once, in time."""
    count, bad, seconds = (200, 50, 60) if quick else (2000, 200, 600)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS run")
        cursor.execute("CREATE TABLE run (number integer, intended varchar(40), task varchar(32), began varchar(40))")
    Schedule.objects.all().delete()
    sites = [Site(number) for number in range(2 if environment.DATABASE == "postgresql" else 1)]
    port = free_port()
    posts = Posts(f"http://127.0.0.1:{port}")
    with web(env={}, port=port, output=FOLDER / "schedules-web.out"), ExitStack() as stack:
        for site in sites:
            site.start()
            stack.callback(site.stop)
        begin = timezone.now() + timedelta(seconds=10 if quick else 60)
        until = begin + timedelta(seconds=seconds)
        made, broken = _make(count, bad, begin, until)
        with posts.going_on():
            upkeep_kills = _kill_until(until, sites, posts)
        expected = {(number, run) for number, one in made.items() for run in one.runs}
        with contextlib.suppress(AssertionError):  # which says more below
            wait_until(lambda: expected <= _runs().keys(), timeout=20)
    runs = _runs()
    late = _assert_once_and_in_time(expected, runs, sites, until)
    assert not posts.refused, f"{posts.refused} POSTs were refused"
    assert max(posts.took) < LATEST_POST, max(posts.took)
    assert posts.silent < SILENT, posts.silent
    left = Schedule.objects.filter(pk__in=broken).values("pk").count()
    assert left == len(broken), f"{len(broken) - left} broken ones were deleted"
    return (
        f"{len(made)} good schedules beside {len(broken)} broken ones, "
        f"{len(expected)} runs in {seconds} s, each once: queued {percentile(late, 0.5):.2f} s after its time (median), "
        f"p95 {percentile(late, 0.95):.2f}, {max(late):.2f} at most; upkeep killed {upkeep_kills} times, a cluster "
        f"{sum(site.kills for site in sites)} times; {len(posts.took)} POSTs meanwhile, the slowest {max(posts.took):.2f} s; "
        f"oldest heartbeat {posts.silent:.1f} s"
    )


def _make(count: int, bad: int, begin: datetime, until: datetime) -> tuple[dict[int, Good], list[int]]:
    """Make so many schedules, and so many of them broken, which are due at once.

    Returns the good ones, by their numbers, and the ids of the broken ones.
    """
    made = {number: good(number, begin, until) for number in range(count - bad)}
    rows: list[Schedule] = []
    for number, one in made.items():
        add_good(number, one.fields, rows)
    Schedule.objects.bulk_create(rows, batch_size=100)
    broken = add_broken(bad)
    assert timezone.now() < begin, "it took too long to make them"
    return made, broken


def _kill_until(until: datetime, sites: list[Site], posts: Posts) -> int:
    """Kill one upkeep process, or all of one cluster, every few seconds; returns how often an upkeep process."""
    upkeep_kills = 0
    while timezone.now() < until:
        quiet_until = time.monotonic() + random.uniform(2, 6)
        while time.monotonic() < quiet_until:
            time.sleep(0.5)
            posts.look_at_heartbeats()
        site = random.choice(sites)
        if random.random() < 0.6:
            upkeep_kills += site.kill_upkeep()
        else:
            site.kill()
            time.sleep(random.uniform(0.5, 3))
            site.start()
            wait_until(lambda: Worker.objects.count() == WORKERS * len(sites), what="the dead ones' rows are gone")
    return upkeep_kills


def _runs() -> dict[tuple[int, datetime], dict[str, datetime]]:
    """What ran: by the schedule's number and the intended moment, the tasks, with the moments at which they began first."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT number, intended, task, began FROM run")
        rows = cursor.fetchall()
    found: dict[tuple[int, datetime], dict[str, datetime]] = {}
    for number, intended, task, began in rows:
        tasks = found.setdefault((number, datetime.fromisoformat(intended)), {})
        moment = datetime.fromisoformat(began)
        tasks[task] = min(moment, tasks.get(task, moment))
    return found


def _assert_once_and_in_time(
    expected: set[tuple[int, datetime]],
    runs: dict[tuple[int, datetime], dict[str, datetime]],
    sites: list[Site],
    until: datetime,
) -> list[float]:
    """Returns the seconds from each run's time until it was queued: its task's id tells when. A killed worker's runs again."""
    seen = {run for run in runs if run[1] < until}
    assert expected == seen, f"lost: {sorted(expected - seen)[:5]}, unexpected: {sorted(seen - expected)[:5]}"
    doubled = {run: tasks for run, tasks in runs.items() if len(tasks) > 1}
    assert not doubled, list(doubled.items())[:3]
    late, too_late = [], []
    for number, intended in sorted(expected):
        (task,) = runs[number, intended]
        queued = queued_at(task)
        assert queued
        late.append((queued - intended).total_seconds())
        if queued.timestamp() > _latest(intended, sites):
            too_late.append((number, intended.astimezone(UTC).time().isoformat(), late[-1]))
    assert not too_late, f"{len(too_late)} were late, among them {too_late[:5]}; clusters were up {[site.up for site in sites]}"
    assert min(late) > -0.01, min(late)
    return late


def _latest(intended: datetime, sites: list[Site]) -> float:
    """By when (seconds since 1970) a run must be queued: the soonest limit that a cluster lives to see."""
    moment = intended.timestamp()
    limits = []
    for begin, end in (period for site in sites for period in site.up):
        limit = moment + LATE if begin <= moment else begin + LATE_AFTER_START
        if moment < end and (limit <= end or end == max(last for site in sites for _, last in site.up)):
            limits.append(limit)
    return min(limits)
