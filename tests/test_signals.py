"""A cluster that is told to stop, at any moment and with anything in hand, stops."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from django.conf import settings
from django_q.models import OrmQ, Success
from django_q.tasks import async_task

from durable_queue.models import FailedAttempt, Worker
from tests.support import environment, selection
from tests.support.clusters import wait_until_begun
from tests.support.processes import running, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

COMMAND = [sys.executable, "manage.py", "qcluster", "--workers", "2"]
ONE_THREAD = {"NOTIFIER_QUEUE_THREADS": "1"}  # so that each worker takes one of a few tasks


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a cluster on this test's database, with a grace of two seconds."""
    own = {"NOTIFIER_DATA_DIR": str(tmp_path / "var"), "SECRET_KEY": settings.SECRET_KEY}
    return own | {"DATABASE_URL": environment.database_url_of_test(), "NOTIFIER_STOP_GRACE": "2"}


@contextmanager
def cluster(env: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A cluster whose two workers work."""
    with running(COMMAND, env=env, output=tmp_path / "output") as process:
        wait_until(lambda: Worker.objects.count() == 2, timeout=60, what="the workers work")
        yield process


def assert_nothing_is_left(tmp_path: Path) -> None:
    """No worker in the table, no progress file, no traceback."""
    assert not Worker.objects.exists()
    assert not list((tmp_path / "var" / "run").glob("*.progress"))
    assert "Traceback" not in (tmp_path / "output").read_text()


@selection.slow_on_postgresql
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop__idle(env: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    with cluster(env, tmp_path) as process:
        process.send_signal(number)
        assert process.wait(6) == 0
    assert_nothing_is_left(tmp_path)


@selection.slow_on_postgresql
@pytest.mark.parametrize("delay", selection.slow_after(4, [0.0, 0.1, 0.3, 0.6, 0.05, 0.2, 0.4, 0.5, 0.7, 0.8]))
def test_stop__while_it_boots(env: dict[str, str], tmp_path: Path, delay: float) -> None:
    with running(COMMAND, env=env, output=tmp_path / "output") as process:
        wait_until(lambda: catches(process.pid, signal.SIGTERM), what="its first lines have run")
        time.sleep(delay)
        process.terminate()
        assert process.wait(5) == 0
    assert_nothing_is_left(tmp_path)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (proc(5), SigCgt). Without one, the kernel's own way counts."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) & 1 << number - 1)


def test_stop__finishes_what_is_in_hand_and_gives_back_the_rest(env: dict[str, str], tmp_path: Path) -> None:
    for _ in range(6):
        async_task("time.sleep", 0.7)
    with cluster(env | ONE_THREAD, tmp_path) as process:
        wait_until_begun(2, run_dir=tmp_path / "var" / "run")
        process.terminate()
        assert process.wait(6) == 0
    assert 2 <= Success.objects.count() == 6 - OrmQ.objects.count() < 6
    assert not FailedAttempt.objects.exists()
    assert_nothing_is_left(tmp_path)


@selection.slow_on_postgresql
def test_stop__kills_what_takes_longer_than_the_grace_and_charges_it_not(env: dict[str, str], tmp_path: Path) -> None:
    for _ in range(2):
        async_task("time.sleep", 30)
    with cluster(env | ONE_THREAD, tmp_path) as process:
        wait_until_begun(2, run_dir=tmp_path / "var" / "run")
        process.terminate()
        started = time.monotonic()
        assert process.wait(6) == 0
        assert time.monotonic() - started > 1.5
    assert OrmQ.objects.count() == 2
    assert not FailedAttempt.objects.exists()
    assert_nothing_is_left(tmp_path)


@selection.slow_on_postgresql
def test_stop__twice_exits_at_once(env: dict[str, str], tmp_path: Path) -> None:
    async_task("time.sleep", 30)
    with cluster(env | {"NOTIFIER_STOP_GRACE": "60"}, tmp_path) as process:
        wait_until_begun(1, run_dir=tmp_path / "var" / "run")
        process.terminate()
        wait_until(lambda: Worker.objects.count() == 1, what="the idle worker has stopped")
        time.sleep(0.3)
        process.terminate()
        assert process.wait(6) == 1
    with running([*COMMAND, "--run-once"], env=env, output=tmp_path / "next") as process:
        wait_until(lambda: not Worker.objects.exclude(supervisor_pid=process.pid).exists(), what="the killed worker is freed")
    assert not FailedAttempt.objects.filter(outcome="lost").exists()


@selection.slow_on_postgresql
def test_stop__told_by_two_at_once_is_one_wish(env: dict[str, str], tmp_path: Path) -> None:
    """As systemd and the service's parent do: what is in hand is finished."""
    task_id = async_task("time.sleep", 1.5)
    with cluster(env | {"NOTIFIER_STOP_GRACE": "60"}, tmp_path) as process:
        wait_until_begun(1, run_dir=tmp_path / "var" / "run")
        process.terminate()
        time.sleep(0.05)
        process.terminate()
        assert process.wait(10) == 0
    assert Success.objects.filter(pk=task_id).exists()


@selection.slow_on_postgresql
def test_sighup__replaces_the_workers_one_by_one(env: dict[str, str], tmp_path: Path) -> None:
    with cluster(env, tmp_path) as process:
        before = set(Worker.objects.values_list("pid", flat=True))
        fewest = 2
        process.send_signal(signal.SIGHUP)

        def are_replaced() -> bool:
            nonlocal fewest
            pids = set(Worker.objects.values_list("pid", flat=True))
            fewest = min(fewest, len(pids))
            return len(pids) == 2 and not pids & before

        wait_until(are_replaced, what="both are replaced")
        assert fewest >= 1
        assert process.poll() is None


@selection.slow_on_postgresql
def test_supervisor_killed__takes_its_children_along(env: dict[str, str], tmp_path: Path) -> None:
    with cluster(env, tmp_path) as process:
        children = psutil.Process(process.pid).children()
        assert len(children) == 3
        process.kill()
        _, left = psutil.wait_procs(children, timeout=3)
        assert not left


@selection.slow
def test_worker_stopped_for_long__is_killed_and_replaced(env: dict[str, str], tmp_path: Path) -> None:
    with cluster(env, tmp_path):
        victim = Worker.objects.earliest("pk").pid
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: not Worker.objects.filter(pid=victim).exists(), what="it is killed")
        wait_until(lambda: Worker.objects.count() == 2, what="it is replaced")
