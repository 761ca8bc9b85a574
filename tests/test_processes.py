"""What a host knows of a worker's process, and what the process leaves behind."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from durable_queue.work.kernel import born, is_alive, is_stopped
from durable_queue.work.progress import Progress, Verdict
from durable_queue.work.slot import InHand, Stage
from tests.support.processes import PROJECT, wait_until
from tests.support.selection import missing

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_is_alive__until_it_is_a_zombie() -> None:
    with subprocess.Popen(SLEEP) as process:
        started = born(process.pid)
        assert is_alive(process.pid, started)
        assert not is_alive(process.pid, started + 1), "another process under the same pid"
        process.kill()
        wait_until(lambda: not is_alive(process.pid, started), what="a zombie counts as dead")
    assert not is_alive(process.pid, started)


def test_is_alive__is_unknown_of_a_process_that_is_hidden() -> None:
    """As with ProtectProc=invisible in systemd: another user's process is there, and can't be seen."""
    if os.geteuid():
        missing("root, who may make namespaces")
    ask = "from durable_queue.work.kernel import is_alive; import sys; print(is_alive(1, 1), is_alive(4_000_000, 1))"
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-B", "-c", ask]
    command = f"mount -t proc -o hidepid=2 proc /proc && exec {shlex.join(user)}"
    said = subprocess.run(["unshare", "--mount", "sh", "-c", command], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert said.stdout == "None False\n", said.stderr


def test_is_stopped() -> None:
    with subprocess.Popen(SLEEP) as process:
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(process.pid), what="it is stopped")
        process.kill()
    assert not is_stopped(process.pid)


def test_progress__tells_another_process_what_is_in_hand(tmp_path: Path) -> None:
    path = tmp_path / "alice.progress"
    child = os.fork()
    if child == 0:
        mine = Progress(path, 4)
        mine.slot(0).begin(15, time.monotonic() + 60)
        mine.slot(0).finish()
        mine.slot(3).begin(16, time.monotonic() + 60)
        mine.slot(3).finish()
        mine.slot(3).forget(15)
        mine.slot(3).forget(16)
        mine.slot(1).begin(17, time.monotonic() + 60)
        mine.slot(1).run("0123456789abcdef")
        mine.slot(1).extend(time.monotonic() - 1)
        mine.slot(2).begin(18, time.monotonic() + 60)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    left = Progress(path)
    left.note_verdict(Verdict.OVERDUE)
    one, two = left.in_hand
    assert [(found.row, found.stage) for found in left.finished] == [(15, Stage.FINISHED)]
    assert one == InHand(17, Stage.RUNNING, "0123456789abcdef", one.started, one.deadline)
    assert two == InHand(18, Stage.READING, "", two.started, two.deadline)
    assert (left.verdict, one.is_overdue(left.judged), two.is_overdue(left.judged)) == (Verdict.OVERDUE, True, False)
    left.remove()
    assert not path.exists()


def test_progress__left_by_an_earlier_version(tmp_path: Path) -> None:
    """It had one row in hand at most, which is not charged."""
    path = tmp_path / "old.progress"
    path.write_bytes(b"\1" * 72)
    left = Progress(path)
    assert (left.in_hand, left.retires) == ([], True)
    left.remove()
