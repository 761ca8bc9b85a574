"""What a task does to its surroundings ends with the task, or with its worker."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from django_q.models import OrmQ, Success
from django_q.tasks import async_task, fetch, result

from durable_queue.models import FailedAttempt, Worker
from tests.support import selection
from tests.support.clusters import Cluster, all_end
from tests.support.installations import new_installation
from tests.support.processes import PROJECT, free_port, manage, processes_of, running, service, wait_until
from tests.support.promised_tasks import notes_file, read_notes

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("no_notes")]
BOTH = pytest.mark.parametrize("threads", selection.slow_after(1, [40, 1]))


def path(name: str) -> str:
    """A task's dotted path."""
    return f"tests.support.surroundings_tasks.{name}"


@selection.once
@BOTH
def test_own__is_as_before(cluster: Cluster, threads: int) -> None:
    """Directory, umask, time zone, language, precision: of tasks beside it, and of those after it in the same thread."""
    with cluster(threads=threads):
        first = async_task(path("tell"))
        wait_until(lambda: fetch(first), what="one before has ended")
        beside = [async_task(path("tell"), 0.2) for _ in range(threads // 2)]
        bad = [async_task(path("spoil")) for _ in range(min(3, threads))]
        beside += [async_task(path("tell"), 0.2) for _ in range(threads // 2)]
        all_end()
        after = [async_task(path("tell")) for _ in range(50)]
        all_end()
        assert Worker.objects.count() == 1
    assert all(fetch(task_id).success for task_id in bad)
    assert all(result(task_id) == result(first) for task_id in [*beside, *after])
    assert Success.objects.count() == 1 + len(bad) + len(beside) + len(after)


@selection.once
@BOTH
@pytest.mark.parametrize(
    ("function", "what"), [("change_environment", "the environment"), ("change_filters", "the filters of warnings")]
)
def test_everybodys__ends_with_the_worker(cluster: Cluster, threads: int, function: str, what: str) -> None:
    with cluster(threads=threads) as output:
        for _ in range(3):  # what a new module sets is not counted, and the first tasks import some
            async_task(path("environment"))
            all_end()
        bad = async_task(path(function))
        wait_until(lambda: fetch(bad), what="it has ended")
        wait_until(lambda: f"{what} changed, which is every task's here: by one of" in output.read_text(), what="it is named")
        wait_until(lambda: psutil.pid_exists(result(bad)) is False, what="its worker has ended")
        after = async_task(path("environment"))
        wait_until(lambda: fetch(after), what="another works")
    pid, value = result(after)
    assert pid != result(bad)
    assert value is None
    assert path(function) in output.read_text()
    assert not FailedAttempt.objects.exists()


@BOTH
def test_session__is_as_before(cluster: Cluster, threads: int) -> None:
    with cluster(threads=threads, connections=1):
        ids = [async_task(path("session"))]
        all_end()
        for _ in range(3):
            async_task(path("alter_session"))
            all_end()
            ids.append(async_task(path("session")))
            all_end()
    assert len({result(task_id) for task_id in ids}) == 1


@selection.once
def test_stop__is_heard_whatever_a_task_sets(cluster: Cluster) -> None:
    with cluster(threads=1):
        deaf = async_task(path("set_signals_aside"), 1.5)
        rest = [async_task(path("tell"), 1.0) for _ in range(20)]
        wait_until(read_notes, what="it is deaf")
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 5
    assert fetch(deaf).success
    assert OrmQ.objects.count() >= len(rest) - 1


@selection.once
@BOTH
def test_signals__are_as_before(cluster: Cluster, threads: int) -> None:
    """In the next task, and in a program that it starts."""
    with cluster(threads=threads):
        if threads == 1:
            async_task(path("set_signals_aside"), 0.0)
        found = async_task(path("handlers"))
        all_end()
    ignored, blocked, terminate, interrupt, hang_up = result(found)
    assert (ignored, blocked) == ("False", "False")
    assert (terminate, hang_up) == ("0", "0")  # SIG_DFL
    assert "default_int_handler" in interrupt


@selection.once
def test_pool__in_a_task_that_runs_alone(cluster: Cluster) -> None:
    """A forked child that has the worker's handler for SIGTERM does not hear `terminate`."""
    with cluster():
        task_id = async_task(path("use_pools"), 30)
        all_end(timeout=60)
        wait_until(lambda: result(task_id) == 0, what="it has ended, and left no child")
    assert not FailedAttempt.objects.exists()


@selection.slow
@selection.once
def test_pool__spawned_beside_others(cluster: Cluster) -> None:
    with cluster():
        for _ in range(39):
            async_task(path("work_beside"), 2)
        task_id = async_task(path("use_spawned_pools"), 2)
        all_end(timeout=60)
    assert result(task_id) == 0
    assert not FailedAttempt.objects.exists()


@selection.once
def test_fork__beside_others_is_named_once(cluster: Cluster) -> None:
    with cluster() as output:
        for _ in range(3):
            async_task(path("fork_and_reap"))
            all_end()
    assert output.read_text().count("fork_and_reap forks a process next to") == 1


def left_behind(notes: Path | None = None) -> list[psutil.Process]:
    """What `leave_child` has started, as far as it lives. `notes`: the file to which it wrote that."""
    notes = notes or notes_file()
    lines = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    pids = [pid for words in lines if words[0] == "children" for pid in words[1:]]
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


@selection.once
@pytest.mark.parametrize(
    ("threads", "end"),
    selection.slow_after(2, [(1, "worker killed"), (40, "limit"), (1, "stop"), (40, "stop"), (40, "stop now")]),
)
def test_orphans__end_with_the_worker(cluster: Cluster, threads: int, end: str) -> None:
    with cluster(threads=threads, max_attempts=1, ends_with=1 if end == "stop now" else 0):
        async_task(path("leave_child"), 1000 if end in ("limit", "worker killed") else 0, timeout=1 if end == "limit" else 60)
        wait_until(lambda: len(left_behind()) == 2, what="they run")
        if end == "worker killed":
            os.kill(Worker.objects.get().pid, signal.SIGKILL)
        if end in ("limit", "worker killed"):
            wait_until(lambda: not left_behind(), timeout=15, what="they have ended")
        else:
            time.sleep(0.5)
            assert len(left_behind()) == 2, "what a task leaves running goes on as long as its worker does"
        if end == "stop now":
            async_task("time.sleep", 1000)
            wait_until(lambda: Worker.objects.exclude(lease=None).exists(), what="a task is in hand")
            supervisor = psutil.Process(Worker.objects.get().pid).parent()
            assert supervisor
            supervisor.terminate()
            time.sleep(0.5)
    wait_until(lambda: not left_behind(), timeout=3, what="they have ended")


@selection.slow
@selection.once
def test_orphans__when_the_supervisor_is_killed(tmp_path: Path) -> None:
    port = free_port()
    notes = tmp_path / "var" / "notes"
    with new_installation(tmp_path) as env, service(env=env, port=port, output=tmp_path / "output"):
        enqueue = f"from django_q.tasks import async_task; async_task({path('leave_child')!r})"
        manage("shell", "-c", enqueue, env=env)
        wait_until(lambda: len(left_behind(notes)) == 2, what="they run")
        workers = [process for process in processes_of(env) if "qcluster" in process.cmdline()]
        min(workers, key=lambda process: process.create_time()).kill()
        wait_until(lambda: not left_behind(notes), timeout=10, what="they have ended")


@selection.slow
@selection.once
def test_orphans__are_no_children_of_the_shell_before(tmp_path: Path) -> None:
    """`exporter & exec scripts/serve`: the program keeps the shell's children, and they are not its to kill."""
    port, output, pid = free_port(), tmp_path / "output", tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {pid}; exec {PROJECT / 'scripts' / 'serve'}"
    with (
        new_installation(tmp_path) as env,
        running(["/bin/sh", "-c", script], env={**env, "PORT": str(port)}, output=output) as process,
    ):
        wait_until(lambda: "Notifier is ready" in output.read_text(), timeout=30, what="the service is ready")
        other = psutil.Process(int(pid.read_text()))
        time.sleep(2)
        assert other.is_running()
        process.terminate()
        process.wait(15)
        assert other.is_running()
        other.kill()
