"""Real processes for the tests: start them, wait for their effects, and never leave one behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    """A TCP port on 127.0.0.1 on which no process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(condition: Callable[[], object], *, timeout: float = 30.0, what: str = "") -> None:
    """Return when `condition` holds; fail if it does not hold within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or condition}"
        time.sleep(0.02)


def is_listening(port: int) -> bool:
    """Whether a process accepts connections on 127.0.0.1:port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str | Path], *, env: Mapping[str, str], output: Path, cwd: Path = PROJECT, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in its own group, with its output in a file. At the end the whole group is killed."""
    with output.open("ab") as file:
        process = subprocess.Popen(
            [str(word) for word in command],
            env=os.environ | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def web(*, env: Mapping[str, str], port: int, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One of Notifier's web processes alone, ready to answer."""
    command = [sys.executable, "-m", "notifier_project.service.web"]
    with running(command, env={**env, "PORT": str(port)}, output=output) as process:
        wait_until(lambda: is_listening(port) or process.poll() is not None, what="the web server listens")
        yield process


@contextmanager
def service(*, env: Mapping[str, str], port: int, output: Path, cwd: Path = PROJECT) -> Iterator[subprocess.Popen[bytes]]:
    """The whole service, started as by a user, and ready to answer. `output` holds what this start has printed."""
    output.unlink(missing_ok=True)
    with running([PROJECT / "scripts" / "serve"], env={**env, "PORT": str(port)}, output=output, cwd=cwd) as process:
        wait_until(
            lambda: "Notifier is ready" in output.read_text() or process.poll() is not None,
            timeout=90,  # on a machine that does many other things
            what="the service is ready",
        )
        assert process.poll() is None, output.read_text()
        yield process


def processes_of(env: Mapping[str, str]) -> list[psutil.Process]:
    """The living processes of an installation, by the data folder in their environment, in the order of their start."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            folder = process.environ().get("NOTIFIER_DATA_DIR")
            if folder == env["NOTIFIER_DATA_DIR"] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return sorted(found, key=lambda process: (process.create_time(), process.pid))


@contextmanager
def queue_workers(*, env: Mapping[str, str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`manage.py qcluster` alone."""
    with running([sys.executable, "manage.py", "qcluster"], env=env, output=output) as process:
        yield process


def manage(*arguments: str, env: Mapping[str, str]) -> str:
    """Run a management command to its end; return what it printed."""
    result = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env=os.environ | dict(env),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
