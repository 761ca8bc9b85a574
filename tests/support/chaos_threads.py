"""Fault injection on workers that have many tasks in hand: scenarios of `scripts/chaos`."""

import random
import re
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
from django.conf import settings
from django.utils import timezone
from django_q.models import Failure, OrmQ, Success, Task
from django_q.tasks import async_task

from durable_queue.intake import packaging
from durable_queue.models import FailedAttempt, Worker
from durable_queue.task import signing
from durable_queue.work.progress import Progress, progress_path
from durable_queue.work.slot import InHand
from tests.support.chaos_cluster import (
    FOLDER,
    OUTPUT,
    PATIENT_SETTINGS,
    WORKERS,
    assert_attempts_add_up,
    cluster,
    drained,
    leftovers,
    managed_cluster,
    marks,
    percentile,
    reset,
    supervisor_of,
    workers_of,
)
from tests.support.processes import wait_until

T = "tests.support.cluster_tasks."
THREADS = "tests.support.thread_tasks."
IMPATIENT = "tests.support.cluster_settings"  # two attempts
SAME = 10  # tasks that write the same line


def enqueue_all(calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[str]:
    """Enqueue calls of functions in one transaction; return their tasks' ids."""
    tasks = [packaging.new_task(path, args, {}, name=f"{path} {number}") for number, (path, args) in enumerate(calls)]
    packaging.broker().enqueue_all([signing.dumps(task) for task in tasks])
    return [task["id"] for task in tasks]


def enqueue_lines(count: int, longest: float) -> list[str]:
    """Enqueue tasks that wait for a random while and write a line; return their ids."""
    calls = [(f"{THREADS}write_line", (f"line {number // SAME}", random.uniform(0.005, longest))) for number in range(count)]
    random.shuffle(calls)
    return enqueue_all(calls)


def assert_lines_stand_once(count: int) -> None:
    """Assert that each line stands in the log as often as tasks were enqueued to write it."""
    expected = Counter(f"line {number // SAME}" for number in range(count))
    found = Counter(settings.NOTIFIER_LOG_FILE.read_text().splitlines())
    assert found == expected, f"lost: {(expected - found).most_common(3)}, doubled: {(found - expected).most_common(3)}"


def assert_each_succeeded(ids: Sequence[str]) -> None:
    """Assert that each task has one success in the history, and that there are no other tasks."""
    assert not Failure.objects.exists(), list(Failure.objects.values_list("result", flat=True))
    assert sorted(Success.objects.values_list("pk", flat=True)) == sorted(ids)


def empty_log() -> None:
    """Delete the log: another scenario may have written to it."""
    settings.NOTIFIER_LOG_FILE.unlink(missing_ok=True)


def deaths() -> int:
    """How many workers have died, by the clusters' output."""
    return len(re.findall(r"A worker \(pid \d+\) died", OUTPUT.read_text())) if OUTPUT.exists() else 0


def in_hand_of(process: psutil.Process) -> Progress | None:
    """A worker's progress file, which stays readable once it is deleted; None if the worker has gone."""
    worker = Worker.objects.filter(pid=process.pid).first()
    with suppress(OSError):
        path = progress_path(worker.name) if worker else None
        return Progress(path) if path and path.exists() else None
    return None


# Killed.


@dataclass
class Victims:
    """The workers that were killed, and what each had in hand, or had just finished, when it died."""

    in_hand: dict[str, list[InHand]] = field(default_factory=dict)  # by the worker, as an attempt has it

    def kill(self, process: psutil.Process) -> None:
        """Kill a worker."""
        worker = Worker.objects.filter(pid=process.pid).first()
        progress = in_hand_of(process)
        with suppress(psutil.Error):
            process.kill()
            wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, what="it is dead")
        if worker and progress:
            self.in_hand[str(worker)] = [*progress.finished, *progress.in_hand]

    def assert_no_neighbour_is_charged(self) -> None:
        """Assert that an attempt was lost only with a worker that had no other task in hand."""
        for attempt in FailedAttempt.objects.all():
            in_hand = self.in_hand.get(attempt.worker, [])
            assert attempt.outcome == FailedAttempt.Outcome.LOST, (attempt, attempt.error)
            assert [task.row for task in in_hand] == [attempt.row], (attempt, attempt.worker, in_hand)


def threads(quick: bool) -> str:
    """Workers with 40 tasks in hand are killed at random moments: each task succeeds once, and writes its line once."""
    count = 400 if quick else 5000
    empty_log()
    (FOLDER / "patient_settings.py").write_text(PATIENT_SETTINGS)
    ids = enqueue_lines(count, 0.2)
    victims = Victims()
    with managed_cluster("patient_settings") as manager:
        deadline = time.monotonic() + (60 if quick else 400)
        while OrmQ.objects.filter(key=settings.Q_CLUSTER["name"]).exists():  # what runs alone is in no worker's hand
            assert time.monotonic() < deadline, f"{OrmQ.objects.count()} rows are left"
            supervisor = supervisor_of(manager)
            if found := workers_of(supervisor, alone=random.random() < 0.2):
                victim = random.choice(found)
                _wait_until_full(victim, random.uniform(0.2, 1.0))
                victims.kill(victim)
        wait_until(drained, timeout=120, what="those that run alone are done")
        wait_until(lambda: Success.objects.count() == count, what="every task has succeeded")
        assert_each_succeeded(ids)
        assert_attempts_add_up()
        victims.assert_no_neighbour_is_charged()
    assert_lines_stand_once(count)
    sizes = [len(in_hand) for in_hand in victims.in_hand.values()]
    assert max(sizes) > 30 or quick, sizes
    return (
        f"{count} tasks, {len(sizes)} kills with {statistics.mean(sizes):.0f} tasks in hand on average, {max(sizes)} at most: "
        f"each has one success and one line; {FailedAttempt.objects.count()} lost attempts, each of a task that was alone"
    )


def _wait_until_full(worker: psutil.Process, seconds: float) -> None:
    """Wait until the worker has as many tasks in hand as it can have, for that time at most, and for a moment more."""
    deadline, full = time.monotonic() + seconds, settings.NOTIFIER_QUEUE_THREADS
    progress = in_hand_of(worker)
    while progress and len(progress.in_hand) < full and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.uniform(0.0, 0.1))


# Quick tasks meanwhile.


@dataclass
class Bursts:
    """Quick tasks, enqueued a burst at a time."""

    size: int
    queued: list[tuple[float, list[str]]] = field(default_factory=list)  # when (seconds since 1970), and their ids

    def queue(self, count: int, seconds: float) -> None:
        """Enqueue so many bursts, evenly over so many seconds."""
        begin = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begin + number * seconds / count - time.monotonic()))
            moment = time.time()
            self.queued.append((moment, enqueue_all([(f"{T}take_one", (number,))] * self.size)))

    def assert_done(self) -> None:
        """Wait until all quick tasks are done."""
        ids = {task for _, tasks in self.queued for task in tasks}
        done = Success.objects.filter(func=f"{T}take_one")
        wait_until(lambda: done.count() == len(ids), timeout=60, what="the quick tasks are done")

    @property
    def took(self) -> list[float]:
        """The seconds that each burst took, from the moment before it was enqueued until its last task was done."""
        stopped = dict(Success.objects.filter(func=f"{T}take_one").values_list("pk", "stopped"))
        return [max(stopped[task].timestamp() for task in tasks) - moment for moment, tasks in self.queued]

    @property
    def rate(self) -> float:
        """Quick tasks a second, while there were any."""
        return self.size * len(self.queued) / sum(self.took)


def rate_without(good: int, seconds: float, size: int, count: int, span: float) -> tuple[float, float]:
    """The rate of bursts beside good tasks only, and the longest time that one took."""
    reset()
    with managed_cluster(IMPATIENT):
        enqueue_all([(f"{T}mark", (number, seconds)) for number in range(good)])
        bursts = Bursts(size)
        bursts.queue(count, span)
        bursts.assert_done()
        wait_until(drained, timeout=60 + seconds, what="the good ones are done")
        return bursts.rate, max(bursts.took)


# Poisoned.


def threads_poison(quick: bool) -> str:
    """One task aborts its process among 39 of 10 s: these are done within 60 s, and quick ones run meanwhile as ever."""
    good, seconds, count, span = (39, 0.5, 6, 1.5) if quick else (39, 10.0, 20, 10.0)
    without, longest_without = rate_without(good, seconds, 25, count, span)
    reset()
    before = deaths()
    with managed_cluster(IMPATIENT):
        calls: list[tuple[str, tuple[Any, ...]]] = [(f"{T}mark", (number, seconds)) for number in range(good)]
        calls.insert(random.randint(0, good), (f"{THREADS}abort", (min(1.0, seconds / 3),)))
        started = timezone.now()
        enqueue_all(calls)
        bursts = Bursts(25)
        bursts.queue(count, span)
        bursts.assert_done()
        marking = Success.objects.filter(func=f"{T}mark")
        wait_until(lambda: marking.count() == good, timeout=30 + good * seconds / 2, what="the good ones are done")
        last = marking.latest("stopped").stopped
        wait_until(drained, timeout=60, what="the queue is empty")
        died = deaths() - before
        failure = Failure.objects.get()
        assert "was killed while it ran" in str(failure.result), failure.result
        assert failure.attempt_count == 2
        assert FailedAttempt.objects.count() == 2, list(FailedAttempt.objects.values())
        assert set(Success.objects.values_list("attempt_count", flat=True)) == {1}
        assert died <= failure.attempt_count + 1, died
        runs = Counter(number for number, _ in marks())
        assert set(runs) == set(range(good))
    assert set(runs.values()) == {1}, runs.most_common(3)
    took = (last - started).total_seconds()
    figures = (
        f"one poison among {good} good tasks of {seconds:g} s: {died} workers died, the good ones were done "
        f"after {took:.1f} s; quick ones meanwhile {bursts.rate:.0f}/s, without it {without:.0f}/s, "
        f"the longest of {count} bursts {max(bursts.took):.2f} s, {longest_without:.2f} s"
    )
    assert took < 60, figures
    assert bursts.rate >= 0.8 * without or max(bursts.took) < 0.5 or quick, figures
    return figures


# Hung.


def threads_hung(quick: bool) -> str:
    """One task never returns among 39 of 20 s: these run once, and quick ones run meanwhile as ever."""
    good, seconds, limit, count, span = (39, 2.0, 1, 4, 2.0) if quick else (39, 20.0, 8, 60, 20.0)
    without, longest_without = (0.0, 0.0) if quick else rate_without(good, seconds, 25, count, span)
    figures, are_quick = [], []
    for name in ("hear_nothing",) if quick else ("sleep_for_ever", "hear_nothing"):
        reset()
        with managed_cluster(IMPATIENT):
            calls = [(f"{T}mark", (number, seconds)) for number in range(good)]
            enqueue_all(calls[: good // 2])
            hung = async_task(f"{THREADS}{name}", timeout=limit)
            enqueue_all(calls[good // 2 :])
            bursts = Bursts(25)
            bursts.queue(count, span)
            bursts.assert_done()
            wait_until(drained, timeout=15 + 4 * seconds, what="the queue is empty")
            assert Success.objects.filter(func=f"{T}mark").count() == good
            assert set(Success.objects.values_list("attempt_count", flat=True)) == {1}
            attempts = FailedAttempt.objects.values_list("task_id", "outcome")
            assert list(attempts) == [(hung, FailedAttempt.Outcome.OVERDUE)] * 2, list(FailedAttempt.objects.values())
            assert "did not heed the timeout" in str(Failure.objects.get().result)
            runs = Counter(number for number, _ in marks())
        assert runs == Counter(range(good)), runs.most_common(3)
        p90 = percentile(bursts.took, 0.9)
        figures.append(f"{name} {bursts.rate:.0f}/s, of {count} bursts p90 {p90:.2f} s, the longest {max(bursts.took):.2f} s")
        are_quick.append(bursts.rate >= 0.9 * without or p90 < 0.1)
    line = f"one hung task among {good} of {seconds:g} s, which ran once: quick ones meanwhile {'; '.join(figures)}"
    line += "" if quick else f"; without it {without:.0f}/s, the longest {longest_without:.2f} s"
    assert all(are_quick) or quick, line
    return line


# Stopped.


@contextmanager
def busy_cluster(count: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a cluster, and wait until its workers have many tasks in hand."""
    with cluster() as process:
        wait_until(lambda: len(in_hand_of_all(process)) >= min(count, 40), what="its hands are full")
        yield process


def in_hand_of_all(process: subprocess.Popen[bytes]) -> list[InHand]:
    """What all workers of a cluster have in hand."""
    with suppress(psutil.Error):
        opened = [in_hand_of(worker) for worker in workers_of(psutil.Process(process.pid))]
        return [in_hand for progress in opened if progress for in_hand in progress.in_hand]
    return []


def threads_stops(quick: bool) -> str:
    """A cluster with 80 tasks in hand is stopped, or replaces its workers: nothing is lost, doubled or charged."""
    rounds, hangups = (2, 2) if quick else (10, 10)
    count = rounds * 250 + hangups * 250
    empty_log()
    ids = enqueue_lines(count, 0.5)
    durations, held = [], []
    for _ in range(rounds):
        with busy_cluster(count) as process:
            time.sleep(random.uniform(0.0, 0.5))
            held.append(len(in_hand_of_all(process)))
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait(settings.NOTIFIER_STOP_GRACE + 5)
            durations.append(time.monotonic() - started)
            assert code == 0, code
            assert durations[-1] < settings.NOTIFIER_STOP_GRACE, durations
        assert not leftovers()
        assert not Worker.objects.exists()
        assert not FailedAttempt.objects.exists(), list(FailedAttempt.objects.values())
    done = Success.objects.count()
    replaced = 0
    with busy_cluster(count) as process:
        while not drained():
            before = {worker.pid for worker in workers_of(psutil.Process(process.pid))}
            process.send_signal(signal.SIGHUP)
            is_new = _is_new(process, before)
            wait_until(lambda is_new=is_new: is_new() or drained(), timeout=20, what="all workers are new")  # type: ignore[misc]
            replaced += is_new()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert_each_succeeded(ids)
    assert not FailedAttempt.objects.exists(), list(FailedAttempt.objects.values())
    assert_lines_stand_once(count)
    return (
        f"{rounds} stops with {statistics.mean(held):.0f} tasks in hand, p50 {statistics.median(durations):.2f} s, "
        f"longest {max(durations):.2f} s; all workers replaced {replaced} times during {count - done} tasks: "
        f"each of {count} has one success and one line, no attempt failed"
    )


def _is_new(process: subprocess.Popen[bytes], before: set[int]) -> Callable[[], bool]:
    """Return a function that tells whether none of the cluster's workers was there before."""

    def is_new() -> bool:
        now = {worker.pid for worker in workers_of(psutil.Process(process.pid))}
        return len(now) == WORKERS and not now & before

    return is_new


# Neither killed nor hung, and bad all the same.


def threads_bad(quick: bool) -> str:
    """Tasks end in unexpected ways, each among 40: each fails, no neighbour is charged, and the cluster stops at once."""
    cases: dict[str, tuple[tuple[Any, ...], str]] = {
        "calls that are none": (("durable_queue.run_in_order", 1), "TypeError"),
        "sys.exit": ((f"{T}exit_politely",), "SystemExit"),
        "raises the unshowable": ((f"{T}raise_unshowable",), "no text either"),
        "returns the unpicklable": ((f"{T}return_unpicklable",), "can't be pickled"),
        "exits while its result is pickled": ((f"{THREADS}return_exiting",), "SystemExit"),
        "a coroutine that cancels itself": ((f"{THREADS}cancel_itself",), ""),
        "dies after its end": ((f"{THREADS}die_afterwards",), "was killed"),
    }
    if quick:  # these are in the scenario `poison`, too
        cases = {name: case for name, case in cases.items() if not str(case[0][0]).startswith(T)}
    wrong = []
    for name, (args, reason) in cases.items():
        reset()
        before = deaths()
        with cluster(settings_module=IMPATIENT) as process:
            enqueue_all([(f"{T}mark", (number, 0.3)) for number in range(20)])
            bad = async_task(*args)
            enqueue_all([(f"{T}mark", (number, 0.3)) for number in range(20, 40)])
            with suppress(AssertionError):
                wait_until(drained, timeout=10 if quick else 20, what="the queue is empty")
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait(20)
            stopped = time.monotonic() - started
        result = Task.objects.filter(pk=bad).values_list("result", flat=True).first()
        charged = FailedAttempt.objects.exclude(task_id=bad).count()
        good = Success.objects.filter(func=f"{T}mark").count()
        died = deaths() - before
        if (code, good, charged) != (0, 40, 0) or stopped > 3 or died > 3 or reason not in str(result or "no result"):
            wrong.append(
                f"{name}: {result!r:.80}, {good} of 40, {charged} charged, {died} died, stopped in {stopped:.1f} s: {code}"
            )
    assert not wrong, "; ".join(wrong)
    return f"{len(cases)} kinds of bad tasks among 40 each: all ended, no neighbour was charged"


# At their limits.


def threads_at_their_limits(quick: bool) -> str:
    """Tasks end within a millisecond of their limits: each succeeds or is over its limit, and nothing else hears of it."""
    count, limit = (400, 0.2) if quick else (10_000, 0.2)
    before = deaths()
    said_before = OUTPUT.read_text() if OUTPUT.exists() else ""
    with cluster(settings_module=IMPATIENT) as process:
        new = [
            packaging.new_task(f"{THREADS}end_after", (limit + random.uniform(-0.001, 0.001),), {}, name=f"task {number}")
            for number in range(count)
        ]
        packaging.broker().enqueue_all([signing.dumps(task | {"timeout": limit}) for task in new])
        wait_until(drained, timeout=60 + count * limit / 20, what="the queue is empty")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert Task.objects.count() == count
    reasons = Failure.objects.exclude(result=None).values_list("result", flat=True)
    over = sum("exceeded maximum timeout value" in str(reason) for reason in reasons)
    assert over == Failure.objects.count(), [str(reason)[:200] for reason in reasons if "maximum timeout" not in str(reason)][
        :3
    ]
    assert {"failed"} >= set(FailedAttempt.objects.values_list("outcome", flat=True))
    said = OUTPUT.read_text().removeprefix(said_before)
    assert "goes on after an error" not in said, said[-3000:]
    assert deaths() == before
    return f"{count} tasks within 1 ms of their limit: {count - over} succeeded, {over} failed twice, and nothing else happened"


ALL = [threads, threads_poison, threads_hung, threads_stops, threads_bad, threads_at_their_limits]
