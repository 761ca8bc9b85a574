"""The service's parent: whatever becomes of its output, of the system or of itself, the service goes on, and can be stopped."""

import errno
import itertools
import os
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from durable_queue.cluster.parent import START_PAUSE, Parent
from notifier_project.service.output import CAPACITY, Output
from tests.support import selection
from tests.support.installations import new_installation
from tests.support.processes import PROJECT, free_port, manage, processes_of, queue_workers, running, service, wait_until

# A parent with one program, which is the script that follows it.
START = """
import sys
from notifier_project.service.parent import Program, ServiceParent
command = [sys.executable, "-c", sys.argv[1]]
sys.exit(ServiceParent([Program("The program", command)], stop_limit=5.0).run())
"""
# Prints a lot, then counts in a file for as long as it lives.
TALK = """
import pathlib, sys, time
for number in range(20_000):
    print(f"line {number} {'x' * 60}", flush=number % 100 == 0)
sys.stdout.flush()
number = 0
while True:
    number += 1
    pathlib.Path("COUNTED").write_text(str(number))
    print("goes on", number, flush=True)
    time.sleep(0.02)
"""


@contextmanager
def talking(folder: Path, output: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A parent whose program talks, with its output there; yields it, and the file in which the program counts."""
    counted = folder / "counted"
    command = [sys.executable, "-c", START, TALK.replace("COUNTED", str(counted))]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=PROJECT)
    try:
        yield process, counted
    finally:
        process.kill()
        process.wait()


def count(file: Path) -> int:
    """The number in a file."""
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return 0


def read_for(descriptor: int, seconds: float) -> bytes:
    """What can be read within so many seconds."""
    said, deadline = b"", time.monotonic() + seconds
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        more = os.read(descriptor, 1 << 16)
        if not more:
            break
        said += more
    return said


# Output.


@selection.once
def test_output__that_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with talking(tmp_path, write_end) as (process, counted):
        os.close(write_end)
        wait_until(lambda: count(counted) > 20, what="the program has printed all, and goes on")
        assert os.get_blocking(read_end)
        said = read_for(read_end, 1.0).decode()
        lines = said.splitlines()
        first = next(number for number, line in enumerate(lines) if line.endswith("lines dropped"))
        assert len("\n".join(lines[:first])) > CAPACITY * 0.9
        assert lines[:first] == [f"line {number} {'x' * 60}" for number in range(first)], "in order, and whole"
        dropped = int(lines[first].split()[0])
        numbers = [int(found) for found in re.findall(r"goes on (\d+)", said)]
        assert first + dropped + 1 + len(numbers) >= 20_000 + numbers[-1], "all are accounted for"
        process.terminate()
        assert process.wait(5) == 0


@selection.once
def test_output__that_nobody_reads_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with talking(tmp_path, write_end) as (process, counted):
        wait_until(lambda: count(counted) > 5, what="the program goes on")
        process.terminate()
        assert process.wait(5) == 0
    os.close(read_end)
    os.close(write_end)


@selection.once
def test_output__keeps_the_flags_of_its_descriptor(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with talking(tmp_path, write_end) as (_, counted):
        wait_until(lambda: count(counted) > 1, what="the program goes on")
        assert os.get_blocking(write_end), "others, a shell among them, write to it"
    os.close(read_end)
    os.close(write_end)


@selection.once
@pytest.mark.parametrize("kind", ["full disk", "no reader", "terminal that was closed", "socket that nobody reads"])
def test_output__that_fails_ends_nothing(tmp_path: Path, kind: str) -> None:
    ends: list[int] = []
    match kind:
        case "full disk":
            output = os.open("/dev/full", os.O_WRONLY)
        case "no reader":
            reader, output = os.pipe()
            ends = [reader]
        case "terminal that was closed":
            terminal, output = pty.openpty()
            ends = [terminal]
        case _:
            other, own = socket.socketpair()
            output, ends = own.detach(), []
            kept = other  # open, and never read
    with talking(tmp_path, output) as (process, counted):
        os.close(output)
        if kind == "terminal that was closed":
            read_for(ends[0], 0.5)
        for end in ends:
            os.close(end)
        wait_until(lambda: count(counted) > 5, what="the program goes on")
        before = count(counted)
        wait_until(lambda: count(counted) > before + 20)
        process.terminate()
        assert process.wait(5) == 0
    if kind == "socket that nobody reads":
        kept.close()


@selection.once
def test_output__tells_what_was_dropped_once_the_disk_has_room() -> None:
    """A disk that is full in the middle of a line, as a pipe whose other end is closed and opened again."""
    read_end, write_end = os.pipe()
    output = Output(write_end)
    output.add(b"half of a li")
    output.flush()
    read_again = os.open(f"/proc/self/fd/{write_end}", os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(read_end, 100) == b"half of a li"
    os.close(read_end)
    os.close(read_again)
    for number in range(3):
        output.add(b"line %d\n" % number)
        output.flush()
    assert not output.waits
    read_end = os.open(f"/proc/self/fd/{write_end}", os.O_RDONLY | os.O_NONBLOCK)
    output.flush()
    output.add(b"later\n")
    output.flush()
    assert os.read(read_end, 100) == b"\n3 lines dropped\nlater\n"
    for end in (read_end, write_end, output.descriptor):
        os.close(end)


@selection.slow
def test_output__of_a_task_and_its_child(tmp_path: Path) -> None:
    """A task prints a megabyte, and so does a child that it leaves behind; nobody reads. The service works on."""
    with new_installation(tmp_path) as env:
        port = free_port()
        read_end, write_end = os.pipe()
        process = subprocess.Popen(
            [PROJECT / "scripts" / "serve"],
            env=os.environ | env | {"PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            start_new_session=True,
        )
        try:
            said = b""
            while b"Notifier is ready" not in said:
                said += os.read(read_end, 4096)
            prints = "'print(\"x\" * 99 * 10000 + chr(10) * 10000)'"
            for call in ("'builtins.print', 'y\\n' * 500_000", f"'os.system', 'python3 -c ' + {prints!r}"):
                manage("shell", "-c", f"from django_q.tasks import async_task; print(async_task({call}))", env=env)
            for number in range(20):
                answer = httpx.post(f"http://127.0.0.1:{port}/send-notification/reader{number}", timeout=5)
                assert answer.status_code == 200
            log = Path(env["NOTIFIER_LOG_FILE"])
            wait_until(lambda: log.exists() and len(log.read_text().splitlines()) == 20, what="all lines are written")
            wait_until(lambda: not manage_count(env), timeout=20, what="both tasks have ended")
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
            os.close(read_end)
            os.close(write_end)
        wait_until(lambda: not processes_of(env), timeout=2, what="no process is left")


def manage_count(env: dict[str, str]) -> int:
    """How many tasks are in the queue."""
    said = manage("shell", "-v0", "-c", "from django_q.models import OrmQ; print('rows', OrmQ.objects.count())", env=env)
    return int(said.rpartition("rows ")[2])


# The system refuses.


@selection.once
def test_try_start__again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    parent = Parent(said.append)
    now = time.monotonic()
    monkeypatch.setattr("durable_queue.cluster.parent.time.monotonic", lambda: now)
    starts: list[float] = []

    def refuse() -> None:
        starts.append(now)
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    began = now
    while now < began + 300:
        assert parent.try_start(refuse) is None
        now += 0.05
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=0.06)
    assert max(pauses) == pytest.approx(START_PAUSE[1], abs=0.06)
    assert 5 <= len(said) <= 6, "one line at the first, one each minute"
    assert all("No process can be started: [Errno 11]" in line for line in said)
    now += 10
    assert parent.try_start(lambda: "started") == "started"
    assert said[-1] == "Processes can be started again"
    assert parent.try_start(lambda: "started") == "started"
    assert said.count("Processes can be started again") == 1
    for end in parent.wakes:
        os.close(end)


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@selection.slow
@selection.once
def test_service__while_no_process_can_be_started(tmp_path: Path) -> None:
    """For seconds neither the parent nor the supervisor has a descriptor for another child."""
    output, port = tmp_path / "output", free_port()
    with new_installation(tmp_path) as env, service(env=env, port=port, output=output) as process:
        wait_until(lambda: len(processes_of(env)) == 7, what="all are there")
        queue = next(found for found in psutil.Process(process.pid).children() if "qcluster" in found.cmdline())
        open_before = descriptors(process.pid)
        for starter in (process.pid, queue.pid):
            resource.prlimit(starter, resource.RLIMIT_NOFILE, (3, 4096))  # no new one
        for victim in (queue.children()[0], next(found for found in psutil.Process(process.pid).children() if found != queue)):
            victim.kill()
        wait_until(lambda: output.read_text().count("No process can be started") == 2, what="both say so")
        assert httpx.post(f"http://127.0.0.1:{port}/send-notification/alice", timeout=5).status_code == 200
        queue.kill()  # neither can the queue be started again
        time.sleep(4)
        assert output.read_text().count("No process can be started") == 2
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (1024, 4096))
        log = Path(env["NOTIFIER_LOG_FILE"])
        wait_until(lambda: log.exists() and log.read_text() == "message to alice\n", what="the line is written")
        wait_until(lambda: len(processes_of(env)) == 7, what="all are back")
        assert "Processes can be started again" in output.read_text()
        assert descriptors(process.pid) == open_before
        process.terminate()
        assert process.wait(20) == 0


@selection.once
def test_qcluster__while_no_worker_can_be_started(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with new_installation(tmp_path) as env:
        manage("migrate", env=env)
        with queue_workers(env=env, output=output) as process:
            wait_until(lambda: len(processes_of(env)) == 4, what="all are there")
            open_before = descriptors(process.pid)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, 4096))
            for child in psutil.Process(process.pid).children():
                child.kill()
            wait_until(lambda: "No process can be started: [Errno 24]" in output.read_text(), what="it says so")
            time.sleep(2)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (1024, 4096))
            wait_until(lambda: len(processes_of(env)) == 4, what="all are back")
            assert "Processes can be started again" in output.read_text()
            assert descriptors(process.pid) <= open_before + 1
            assert "Traceback" not in output.read_text()


# The parent dies, a web process hangs.


def web_processes(parent: int) -> list[psutil.Process]:
    """The living ones."""
    return [found for found in psutil.Process(parent).children() if "notifier_project.service.web" in found.cmdline()]


@selection.slow
@selection.once
def test_web__that_hangs(tmp_path: Path) -> None:
    output, port = tmp_path / "output", free_port()
    with new_installation(tmp_path) as env:
        with service(env=env, port=port, output=output) as process:
            first, second = web_processes(process.pid)
            time.sleep(3)  # until both have shown life: the first that did made the service ready
            first.send_signal(signal.SIGSTOP)
            wait_until(lambda: "gave no sign of life for 10 s, and is killed" in output.read_text(), timeout=20)
            wait_until(lambda: len(web_processes(process.pid)) == 2, what="it is replaced")
            assert not first.is_running()
            second.send_signal(signal.SIGSTOP)  # hangs, and must not keep the port when its parent is gone
            process.kill()
            process.wait()
            wait_until(lambda: second.pid not in {found.pid for found in processes_of(env)}, timeout=1.0, what="it is gone")
        with service(env=env, port=port, output=output) as process:
            assert httpx.post(f"http://127.0.0.1:{port}/send-notification/alice", timeout=5).status_code == 200
            process.terminate()
            assert process.wait(20) == 0


# The database comes later.


@selection.on_postgresql
def test_start__waits_for_the_database(tmp_path: Path) -> None:
    output, port = tmp_path / "output", free_port()
    with new_installation(tmp_path) as env:
        address, _, folder = env["DATABASE_URL"].partition("?host=")
        late = tmp_path / "late"
        env |= {"DATABASE_URL": f"{address}?host={late}", "PORT": str(port)}
        with running([PROJECT / "scripts" / "serve"], env=env, output=output) as process:
            wait_until(lambda: "Waiting up to 60 s for the database" in output.read_text(), timeout=30)
            late.symlink_to(folder)
            wait_until(lambda: "Notifier is ready" in output.read_text(), timeout=30)
            assert output.read_text().count("Waiting") == 1
            process.terminate()
            assert process.wait(20) == 0


@selection.on_postgresql
def test_start__does_not_wait_for_a_user_who_is_refused(tmp_path: Path) -> None:
    with new_installation(tmp_path) as env:
        env["DATABASE_URL"] = env["DATABASE_URL"].replace("//postgres", "//nobody", 1)
        began = time.monotonic()
        command = [PROJECT / "scripts" / "serve"]
        result = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("DATABASE_URL: the database can't be used")
    assert time.monotonic() - began < 30
