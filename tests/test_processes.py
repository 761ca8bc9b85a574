"""What a host knows of a worker's process, and what the process leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from durable_queue.work.processes import born, is_alive, is_stopped
from durable_queue.work.progress import InHand, Progress, Stage, Verdict
from tests.support.processes import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_is_alive__until_it_is_a_zombie() -> None:
    with subprocess.Popen(SLEEP) as process:
        started = born(process.pid)
        assert is_alive(process.pid, started)
        assert not is_alive(process.pid, started + 1), "another process under the same pid"
        process.kill()
        wait_until(lambda: not is_alive(process.pid, started), what="a zombie counts as dead")
    assert not is_alive(process.pid, started)


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
        mine = Progress(path)
        mine.begin(17, time.monotonic() + 60)
        mine.run("0123456789abcdef", time.monotonic() - 1)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    left = Progress(path)
    left.note_verdict(Verdict.OVERDUE)
    in_hand = left.in_hand
    assert in_hand is not None
    assert in_hand == InHand(17, Stage.RUNNING, Verdict.OVERDUE, "0123456789abcdef", in_hand.started)
    assert left.is_overdue
    left.end()
    assert left.in_hand is None
    assert not left.is_overdue
    left.remove()
    assert not path.exists()
