"""Fault injection on a real cluster: `scripts/chaos` runs all of it, the test suite the quick half.

    python -m tests.support.chaos [--quick] [scenario …]

Each scenario gets a data folder and a database of its own (TEST_DATABASE: sqlite or postgresql), asserts what must
hold, and prints one line of figures. The exit code is 1 if an assertion of any scenario failed.
"""

from tests.support import chaos_cluster, environment  # noqa: F401 - first: they set Django up  # isort: skip

import argparse
import contextlib
import itertools
import os
import random
import signal
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.core.management import call_command
from django.db import Error as DatabaseError
from django.db import connection, connections, transaction
from django.utils import timezone
from django_q.models import Failure, OrmQ, Success, Task
from django_q.tasks import async_task

from durable_queue.intake import packaging
from durable_queue.models import FailedAttempt, Worker
from durable_queue.task import signing
from durable_queue.work import kernel
from tests.support import (
    chaos_faults,
    chaos_idempotency,
    chaos_identity,
    chaos_over_http,
    chaos_pools,
    chaos_schedules,
    chaos_snapshot,
    chaos_threads,
    chaos_writes,
)
from tests.support.chaos_cluster import (
    FOLDER,
    OUTPUT,
    PATIENT_SETTINGS,
    WORKERS,
    assert_attempts_add_up,
    cluster,
    drained,
    enqueue,
    leftovers,
    managed_cluster,
    marks,
    percentile,
    reset,
    supervisor_of,
    upkeep_of,
    workers_of,
)
from tests.support.hosts import host
from tests.support.processes import PROJECT, wait_until

# Scenarios.


def kills(quick: bool) -> str:
    """Each kind of process, idle and busy, is killed in each way: the queue drains, nothing hangs, no process is left."""
    rounds = 1 if quick else 20
    figures = []
    with managed_cluster() as manager:
        for kind, find, limit in (
            ("worker", lambda: workers_of(supervisor_of(manager)), 1.0),
            ("supervisor", lambda: [p for p in [supervisor_of(manager)] if p], 3.0),
            ("upkeep", lambda: upkeep_of(supervisor_of(manager)), 1.0),
        ):
            delays: list[float] = []
            for busy in (False, True):
                for way in ("KILL", "STOP KILL", "TERM"):
                    delays += [_kill_once(manager, find, way, busy) for _ in range(rounds)]
            p95 = percentile(delays, 0.95)
            figures.append(f"{kind} p50 {statistics.median(delays):.2f} s, p95 {p95:.2f} s")
            assert quick or p95 < limit, figures
    assert_attempts_add_up()
    assert not Failure.objects.exists(), list(Failure.objects.values_list("result", flat=True))
    return f"{rounds * 18} kills, from kill to the next finished task: {'; '.join(figures)}"


def _kill_once(manager: psutil.Process, find: Callable[[], list[psutil.Process]], way: str, busy: bool) -> float:
    reset()
    wait_until(lambda: len(workers_of(supervisor_of(manager))) == WORKERS and find(), what="all workers are up")
    ids = []
    if busy:
        with transaction.atomic():  # at once, for they keep 40 threads of each worker busy for little more than a second
            ids = enqueue(1000, 0.1)
        wait_until(Success.objects.exists, what="the first task is done")
    victim = random.choice(find())
    before = timezone.now()
    with contextlib.suppress(psutil.NoSuchProcess):
        for name in way.split():
            victim.send_signal(getattr(signal, f"SIG{name}"))
            if name == "STOP":
                time.sleep(0.05)
    if not busy:
        ids = [async_task("tests.support.cluster_tasks.mark", 1000)]
    wait_until(
        lambda: Success.objects.filter(stopped__gt=before, started__gt=before).exists(),
        timeout=30,
        what=f"a task is finished after {way} of {victim}",
    )
    first: datetime = Success.objects.filter(stopped__gt=before, started__gt=before).earliest("stopped").stopped
    wait_until(drained, timeout=30, what="the queue is empty")
    assert Success.objects.filter(pk__in=ids).count() == len(ids)
    return (first - before).total_seconds()


def chaos(quick: bool) -> str:
    """Many tasks run while a random process of the cluster is killed every 0.2 s: worker, upkeep or supervisor."""
    ids: list[str] = []
    with managed_cluster() as manager:
        kills_done, killed = _kill_until_drained(
            manager, kills=10 if quick else 100, feed=lambda: ids.extend(enqueue(200, 0.005, first=len(ids)))
        )
        count = len(ids)
        wait_until(lambda: Success.objects.count() == count, what="every task has succeeded")
        assert set(Success.objects.values_list("pk", flat=True)) == set(ids)
        runs: dict[int, list[int]] = {}
        for number, pid in marks():
            runs.setdefault(number, []).append(pid)
        assert set(runs) == set(range(count))
        unexplained = [pids for pids in runs.values() if len(pids) > 1 and sum(pid not in killed for pid in pids) > 1]
        assert not unexplained, unexplained
        assert_attempts_add_up()
        wait_until(lambda: not Worker.objects.filter(lease__isnull=False).exists(), what="no lease is left")
    repeated = sum(len(pids) - 1 for pids in runs.values())
    lost = FailedAttempt.objects.filter(outcome=FailedAttempt.Outcome.LOST).count()
    return f"{count} tasks, {kills_done} kills: each has one success; {repeated} ran again, {lost} lost attempts on record"


def _kill_until_drained(manager: psutil.Process, *, kills: int, feed: Callable[[], None]) -> tuple[int, set[int]]:
    """Kill a random process every 0.2 s, so many at least, until the queue is empty; `feed` gives it more to do until then.

    Returns the number of kills, and the pids of the dead.
    """
    kills_done, killed = 0, set[int]()
    deadline = time.monotonic() + 300
    while kills_done < kills or not drained():
        assert time.monotonic() < deadline, f"{OrmQ.objects.count()} rows are left"
        if kills_done < kills and OrmQ.objects.count() < 400:
            feed()
        supervisor = supervisor_of(manager)
        with contextlib.suppress(psutil.Error):
            # A supervisor that is about to start is no victim: killed each time, it would never get on.
            if workers_of(supervisor) and supervisor:
                victims = [supervisor, *supervisor.children()]
                victim = random.choice(victims)
                killed |= {process.pid for process in victims} if victim is supervisor else {victim.pid}
                victim.kill()
                kills_done += 1
        time.sleep(0.2)
    return kills_done, killed


def writes(quick: bool) -> str:
    """Tasks fail, branch, resume and repeat themselves under the same kills: each line stands as often as promised."""
    ids: list[str] = []
    (FOLDER / "patient_settings.py").write_text(PATIENT_SETTINGS)
    with managed_cluster("patient_settings") as manager:
        kills_done, _ = _kill_until_drained(
            manager, kills=8 if quick else 100, feed=lambda: ids.extend(chaos_writes.enqueue(100, first=len(ids)))
        )
        count = len(ids)
        assert not Failure.objects.exists(), list(Failure.objects.values_list("result", flat=True))
        assert set(Success.objects.values_list("pk", flat=True)) == set(ids)
        assert_attempts_add_up()
    lost = FailedAttempt.objects.filter(outcome=FailedAttempt.Outcome.LOST).count()
    # Only now, since what a task has forked outlives a kill of its worker.
    return f"{count} tasks, {kills_done} kills, {lost} lost attempts: {chaos_writes.compare(count, settings.NOTIFIER_LOG_FILE)}"


def poison(quick: bool) -> str:
    """Bad tasks run, each among 200 good ones."""
    t = "tests.support.cluster_tasks."
    once, tries = 1, 2  # attempts until a bad task is failed; the policy below gives two
    cases: dict[str, tuple[tuple[Any, ...], dict[str, Any], int, str]] = {
        "kills its process": ((t + "kill_own_process",), {}, tries, "was killed while it ran"),
        "sys.exit": ((t + "exit_politely",), {}, tries, "SystemExit"),
        "os._exit": ((t + "exit_rudely",), {}, tries, "was killed while it ran"),
        "runs for ever": ((t + "run_for_ever",), {"timeout": 1}, tries, "exceeded maximum timeout value"),
        "ignores the timeout": ((t + "ignore_timeout",), {"timeout": 1}, tries, "did not heed the timeout"),
        "returns the unpicklable": ((t + "return_unpicklable",), {}, tries, "can't be pickled"),
        "raises the unpicklable": ((t + "raise_unpicklable",), {}, tries, "unpicklable error"),
        "raises the unshowable": ((t + "raise_unshowable",), {}, tries, "no text either"),
        "fails unspeakably": ((t + "fail_unspeakably",), {"task_name": "\0" * 200}, tries, "a zero"),
        "returns what can't be stored": ((t + "return_picky",), {}, once, "can't be stored: TypeError: not twice"),
        "nests its argument": ((t + "nest_argument", []), {}, once, "can't be stored: RecursionError"),
        "returns the unloadable": (("tests.support.stored_tasks.give", "error"), {}, tries, "not loaded again"),
        "missing module": (("tests.nowhere.task",), {}, tries, "There is no function"),
        "missing function": ((t + "nothing",), {}, tries, "There is no function"),
        "raises on import": (("tests.support.raises_on_import.task",), {}, tries, "raises on import"),
        "wrong arguments": ((t + "take_one", 1, 2, 3), {}, tries, "positional argument"),
        "kills when unpickled": ((t + "take_one", _poisoned("KillsWhenUnpickled")), {}, tries, "while it unpickled"),
        "raises when unpickled": ((t + "take_one", _poisoned("RaisesWhenUnpickled")), {}, once, "a module that is gone"),
    }
    if quick:
        cases = {name: case for name, case in cases.items() if "timeout" not in name}
    with managed_cluster("tests.support.cluster_settings"):
        for name, (args, options, attempts, reason) in cases.items():
            _poison_once(name, attempts, reason, partial(async_task, *args, **options))
        _poison_once("bad signature", once, "signature is wrong", _enqueue_tampered)
        reset()
        much = async_task(t + "return_much")
        wait_until(lambda: Success.objects.filter(pk=much).exists(), what="10 MB are stored")
    return f"{len(cases) + 2} kinds of poison among 200 good tasks each: all ended as they should, no neighbour was charged"


def _poisoned(name: str) -> Any:
    from tests.support import cluster_tasks  # noqa: PLC0415

    return getattr(cluster_tasks, name)()


def _enqueue_tampered() -> None:
    task = packaging.new_task("tests.support.cluster_tasks.mark", (-1,), {}, name="tampered")
    packaging.broker().enqueue(signing.dumps(task)[:-4] + "AAAA")


def _poison_once(name: str, attempts: int, reason: str, queue: Callable[[], object]) -> None:
    reset()
    enqueue(100)
    queue()
    enqueue(100)
    wait_until(drained, timeout=60, what=f"the queue is empty in spite of: {name}")
    assert Success.objects.count() == 200, (name, Success.objects.count())
    assert not Success.objects.exclude(attempt_count=1).exists(), name
    failure = Failure.objects.get()
    assert reason in str(failure.result), (name, failure.result)
    assert failure.attempt_count == attempts, (name, failure.attempt_count, list(FailedAttempt.objects.values()))
    assert FailedAttempt.objects.count() == attempts, (name, list(FailedAttempt.objects.values()))
    runs = Counter(number for number, _ in marks())
    assert set(runs) == set(range(100)), name


def stops(quick: bool) -> str:
    """The cluster is stopped under load, again and again: exit 0 within the grace, nothing lost, nothing run twice."""
    rounds = 5 if quick else 100
    durations = []
    done: Counter[int] = Counter()
    reset()
    enqueue(rounds * 100, 0.005)
    for _ in range(rounds):
        before = len(marks())
        with cluster() as process:
            wait_until(partial(_has_more_marks_than, before + 20), what="work is under way")
            started = time.monotonic()
            process.send_signal(random.choice([signal.SIGTERM, signal.SIGINT]))
            code = process.wait(15)
            durations.append(time.monotonic() - started)
            assert code == 0, code
        assert not leftovers()
        assert not Worker.objects.exists()
    with cluster("--run-once") as process:
        assert process.wait(120) == 0
    done = Counter(number for number, _ in marks())
    assert set(done.values()) == {1}, done.most_common(3)
    assert Success.objects.count() == rounds * 100
    assert not FailedAttempt.objects.exists()
    return f"{rounds} stops under load: all clean, p50 {statistics.median(durations):.2f} s, longest {max(durations):.2f} s"


def _has_more_marks_than(count: int) -> bool:
    return len(marks()) > count


def fairness(quick: bool) -> str:
    """One task of 5 s stands anywhere among 200 quick ones: the quick ones are done within 1.5 s."""
    times = []
    with managed_cluster():
        for place in (100,) if quick else (0, 100, 199):
            reset()
            started = time.monotonic()
            ids = []
            for number in range(200):
                if number == place:
                    slow = async_task("tests.support.cluster_tasks.mark", -1, 5.0)
                ids.append(async_task("tests.support.cluster_tasks.mark", number))
            wait_until(lambda: Success.objects.filter(func__endswith="mark").count() >= 200, what="the quick ones are done")
            times.append(time.monotonic() - started)
            assert times[-1] < (4.5 if quick else 1.5), times  # the machine of a quick run may be busy
            assert not Success.objects.filter(pk=slow).exists()
            wait_until(drained, what="the slow one is done")
    return f"200 quick tasks beside one of 5 s: done after {', '.join(f'{seconds:.2f} s' for seconds in times)}"


def idle(quick: bool) -> str:
    """Measure what a cluster without tasks costs."""
    seconds = 4 if quick else 30
    with managed_cluster() as manager:
        time.sleep(3)  # until the pauses have grown
        processes = [p for p in [supervisor_of(manager)] if p]
        processes += processes[0].children()
        before, statements = [sum(p.cpu_times()[:2]) for p in processes], statements_seen()
        time.sleep(seconds)
        share = sum(sum(p.cpu_times()[:2]) - b for p, b in zip(processes, before, strict=True)) / seconds
        rate = (statements_seen() - statements) / seconds
    assert share < 0.01 or quick, share
    assert rate <= 3.0 or quick, rate
    seen = f", {rate:.1f} queries a second" if environment.DATABASE == "postgresql" else ""
    return f"idle for {seconds} s: {share:.2%} of a core{seen}"


def statements_seen() -> int:
    """The number of statements that PostgreSQL has logged since the first call. SQLite keeps no such log."""
    if environment.DATABASE == "sqlite":
        return 0
    with environment.administration() as cursor:
        cursor.execute("ALTER SYSTEM SET log_statement = 'all'")
        cursor.execute("SELECT pg_reload_conf()")
    return environment.server_log().count("statement: ")


def paused(quick: bool) -> str:
    """A worker is stopped with SIGSTOP for a while and continued: nothing is doubled."""
    seconds = 8 if quick else 20
    with managed_cluster() as manager:
        enqueue(300, 0.02)
        wait_until(Success.objects.exists, what="the first task is done")
        victim = workers_of(supervisor_of(manager))[0]
        victim.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGCONT)
        wait_until(lambda: drained() and Success.objects.count() == 300, timeout=30, what="all is done")
    runs = Counter(number for number, pid in marks() if pid != victim.pid)
    assert max(runs.values()) == 1
    assert_attempts_add_up()
    return f"a worker stopped for {seconds} s: 300 tasks, each has one success"


def hosts(quick: bool) -> str:
    """Two hosts share one PostgreSQL. One host is lost: the rows that it held run on the other."""
    count = 1000 if quick else 5000
    ids = enqueue(count, 0.002)
    with _working_host("alpha") as alpha, _working_host("beta"):
        wait_until(lambda: drained() and Success.objects.count() == count, timeout=120, what="all is done")
        runs = Counter(number for number, _ in marks())
        assert set(Success.objects.values_list("pk", flat=True)) == set(ids)
        assert set(runs) == set(range(count))
        assert set(runs.values()) == {1}, runs.most_common(3)
        reset()
        held = 400
        with transaction.atomic():  # at once: enough for all threads of all four workers
            enqueue(held, 1.0)
        wait_until(lambda: Worker.objects.filter(lease__isnull=False).count() == 2 * WORKERS, what="all workers work")
        lost = list(Worker.objects.filter(host=_host_of("alpha")).values_list("name", flat=True))
        assert len(lost) == WORKERS
        for process in reversed([alpha, *alpha.children(recursive=True)]):
            process.kill()
        started = time.monotonic()
        wait_until(lambda: not Worker.objects.filter(name__in=lost).exists(), timeout=30, what="the lost are freed")
        delay = time.monotonic() - started
        assert delay < 15, delay
        wait_until(lambda: drained() and Success.objects.count() == held, timeout=90, what="all is done")
    return f"{count} tasks on two hosts, each once; of a lost host, the leases were free after {delay:.1f} s"


@contextlib.contextmanager
def _working_host(name: str) -> Iterator[psutil.Process]:
    """A cluster on a host of its own, with a data folder of its own. It shares only the database."""
    env = {
        "NOTIFIER_DATA_DIR": str(FOLDER / name),
        "NOTIFIER_LOG_FILE": str(FOLDER / f"{name}.txt"),
        "SECRET_KEY": settings.SECRET_KEY,
    }
    with host(name, env=env, output=OUTPUT, workers=WORKERS) as process:
        wait_until(lambda: Worker.objects.filter(host=_host_of(name)).count() == WORKERS, what=f"{name} works")
        yield process


def _host_of(name: str) -> str:
    found = Worker.objects.filter(host__startswith=f"{name} ").values_list("host", flat=True).first()
    return found or name


def restarts(quick: bool) -> str:
    """The database server is restarted, and crashes, in the middle."""
    count = 1000 if quick else 5000
    with managed_cluster():
        ids = enqueue(count, 0.004)
        modes = ("fast", "immediate") if quick else ("fast", "immediate") * 3
        for mode in modes:
            connections.close_all()
            environment.restart_server(mode)
            wait_until(_database_answers, what="the database is back")
            before = Success.objects.count()
            wait_until(partial(_has_more_successes_than, before), timeout=30, what=f"work goes on after {mode}")
        wait_until(lambda: drained() and Success.objects.count() == count, timeout=120, what="all is done")
        assert set(Success.objects.values_list("pk", flat=True)) == set(ids)
        assert {number for number, _ in marks()} == set(range(count))
        assert_attempts_add_up()
    failed = FailedAttempt.objects.count()
    return f"{count} tasks, {len(modes)} restarts of the server: each has one success ({failed} attempts failed in between)"


def _database_answers() -> bool:
    try:
        return Task.objects.exists() in (True, False)
    except DatabaseError:
        connections.close_all()
        return False


def _has_more_successes_than(count: int) -> bool:
    return Success.objects.count() > count or drained()


EVERYWHERE = [kills, chaos, writes, poison, stops, fairness, idle, paused]
EVERYWHERE += [*chaos_threads.ALL, chaos_pools.threads_pools, chaos_schedules.schedules]
EVERYWHERE += [chaos_over_http.posts, chaos_idempotency.idempotency, chaos_over_http.log_disk_full, chaos_faults.faults]
EVERYWHERE += [chaos_identity.identity]
ONLY_ON: dict[str, list[Callable[[bool], str]]] = {
    "sqlite": [chaos_over_http.data_disk_full, chaos_over_http.threads_in_transactions],
    "postgresql": [hosts, restarts, chaos_snapshot.snapshot],
}
SCENARIOS = {scenario.__name__: scenario for scenario in EVERYWHERE + ONLY_ON[environment.DATABASE]}
NAMES = [scenario.__name__ for scenario in itertools.chain(EVERYWHERE, *ONLY_ON.values())]


def _left_behind(own: set[int]) -> set[int]:
    """The processes that a scenario has left, except for `own` and a database server; reaps those that have ended."""
    left = set()
    for pid in kernel.children() - own:
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)
            if Path(f"/proc/{pid}/comm").read_text().strip() != "postgres":  # which a scenario has started again
                left.add(pid)
    return left


def main() -> int:
    """Run the scenarios that were asked for."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Kill, stop, poison and restart a real cluster.")
    parser.add_argument("scenario", nargs="*", help=f"all of them, if none is named: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenario) - set(NAMES):
        parser.error(f"there is no scenario {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing that was started is left behind
    os.chdir(PROJECT)
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE mark (number integer, pid integer)")
    kernel.adopt_orphans()
    own = kernel.children()
    failed, is_told_to_stop = 0, False
    for name in [name for name in arguments.scenario or NAMES if name in SCENARIOS]:
        started = time.monotonic()
        reset()
        try:
            line = SCENARIOS[name](arguments.quick)
            wait_until(lambda: not _left_behind(own), timeout=5, what="no process is left behind")
        except (Exception, SystemExit) as error:
            failed += 1
            is_told_to_stop = isinstance(error, SystemExit)
            line = f"FAILED\n{traceback.format_exc()}"
        sys.stdout.write(f"{environment.DATABASE} {name}: {line} ({time.monotonic() - started:.0f} s)\n")
        sys.stdout.flush()
        if is_told_to_stop:
            break
    connections.close_all()
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
