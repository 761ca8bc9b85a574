"""scripts/serve: the whole service, with real processes, as a person starts, uses, hurts and stops it."""

import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support import selection
from tests.support.installations import new_installation
from tests.support.processes import (
    PROJECT,
    free_port,
    is_listening,
    manage,
    processes_of,
    queue_workers,
    running,
    service,
    wait_until,
    web,
)

pytestmark = selection.slow_on_postgresql

SERVE = str(PROJECT / "scripts" / "serve")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def post(port: int, path: str) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{port}{path}", timeout=10)


def lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines() if file.exists() else []


@contextmanager
def logged_in(port: int, user: str, password: str) -> Iterator[httpx.Client]:
    """Somebody's browser, once the admin's login form has been sent."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True, timeout=10) as client:
        form = client.get("/admin/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
        assert token, form
        client.post(
            "/admin/login/?next=/admin/", data={"csrfmiddlewaretoken": token[1], "username": user, "password": password}
        )
        yield client


def assert_clean(output: Path, env: Mapping[str, str]) -> None:
    """Nothing is left of the service but what it wrote, and that is no traceback."""
    wait_until(lambda: not processes_of(env), timeout=2, what="no process is left")
    assert "Traceback" not in output.read_text()


def stop(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(20)


# Start, use, stop.


def test_service__from_nothing(installation: dict[str, str], log_file: Path, output: Path, port: int) -> None:
    with service(env=installation, port=port, output=output) as process:
        said = output.read_text()
        password_file = Path(installation["NOTIFIER_DATA_DIR"]) / "admin-password"
        assert f"http://127.0.0.1:{port}/send-notification/" in said
        assert f"http://127.0.0.1:{port}/admin/ as admin; the password is in {password_file}" in said
        assert stat.S_IMODE(password_file.stat().st_mode) == 0o600

        response = post(port, "/send-notification/alice@example.com?q=foo")
        assert (response.status_code, response.text) == (200, '{"message":"Message sent"}')
        wait_until(lambda: lines(log_file) == ["found query: foo", "message to alice@example.com"])
        post(port, "/basic/send-notification/bob@example.com")
        wait_until(lambda: lines(log_file) == ["notification for bob@example.com: some notification"])

        with logged_in(port, "admin", password_file.read_text().strip()) as client:
            wait_until(lambda: "notification for bob@example.com" in client.get("/admin/django_q/success/").text)
            assert "message to alice@example.com" in client.get("/admin/django_q/success/").text
            assert client.get("/static/admin/css/base.css").status_code == 200
        assert stop(process) == 0
    assert_clean(output, installation)


@selection.slow
def test_service__restarted_with_entries_waiting(installation: dict[str, str], log_file: Path, output: Path, port: int) -> None:
    data = Path(installation["NOTIFIER_DATA_DIR"])
    with service(env=installation, port=port, output=output) as process:
        secrets = [(data / name).read_bytes() for name in ("secret-key", "admin-password")]
        assert stop(process) == 0
    with web(env=installation, port=port, output=output):
        for name in ("alice", "bob"):
            assert post(port, f"/send-notification/{name}").status_code == 200
    assert lines(log_file) == []
    with queue_workers(env=installation, output=output) as process:
        wait_until(lambda: sorted(lines(log_file)) == ["message to alice", "message to bob"])
        assert stop(process) == 0
    with service(env=installation, port=port, output=output) as process:
        post(port, "/send-notification/carol")
        wait_until(lambda: lines(log_file)[2:] == ["message to carol"])
        assert [(data / name).read_bytes() for name in ("secret-key", "admin-password")] == secrets
        assert stop(process) == 0
    assert_clean(output, installation)


@selection.slow
@selection.once
def test_service__names_of_others_and_relative_paths(
    installation: dict[str, str], log_file: Path, output: Path, port: int, tmp_path: Path
) -> None:
    env = installation | {
        "NOTIFIER_DATA_DIR": os.path.relpath(installation["NOTIFIER_DATA_DIR"], PROJECT),
        "NOTIFIER_LOG_FILE": os.path.relpath(log_file, PROJECT),
        "NOTIFIER_ROOT": "basic",
        "HOST": "localhost",
        "DJANGO_SUPERUSER_USERNAME": "olivia",
        "DJANGO_SUPERUSER_PASSWORD": "correct horse",
    }
    with service(env=env, port=port, output=output, cwd=tmp_path) as process:
        assert "/admin/ as olivia" in output.read_text()
        assert not (tmp_path / "var" / "admin-password").exists()
        post(port, "/send-notification/alice")
        wait_until(lambda: lines(log_file) == ["notification for alice: some notification"])
        with logged_in(port, "olivia", "correct horse") as client:
            assert "Log out" in client.get("/admin/").text
        assert stop(process) == 0
    assert "Traceback" not in output.read_text()


@selection.once
def test_service__ctrl_c_in_a_terminal(installation: dict[str, str], port: int, output: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(SERVE, [SERVE], os.environ | installation | {"PORT": str(port)})  # noqa: S606
    said = b""
    while b"stop it" not in said:
        said += os.read(terminal, 4096)
    started = time.monotonic()
    os.write(terminal, b"\x03")
    with suppress(OSError):  # EIO: nobody has the terminal open any more
        while more := os.read(terminal, 4096):
            said += more
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert time.monotonic() - started < 5
    output.write_bytes(said)
    assert_clean(output, installation)


@selection.slow
@selection.once
def test_service__output_to_a_socket(installation: dict[str, str], port: int, output: Path) -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        subprocess.Popen([SERVE], env=os.environ | installation | {"PORT": str(port)}, stdout=theirs.fileno()) as process,
    ):
        ours.settimeout(30)
        said = b""
        while b"stop it" not in said:
            said += ours.recv(4096)
        assert stop(process) == 0
    output.write_bytes(said)
    assert_clean(output, installation)


@selection.slow
def test_service__stopped_while_a_task_runs(installation: dict[str, str], port: int, output: Path) -> None:
    env = installation | {"NOTIFIER_STOP_GRACE": "1"}
    with service(env=env, port=port, output=output) as process:
        queue_a_long_task(env)
        started = time.monotonic()
        assert stop(process) == 0
        assert time.monotonic() - started < 8
    assert_clean(output, env)


@selection.slow_on_postgresql
def test_service__second_signal(installation: dict[str, str], port: int, output: Path) -> None:
    env = installation | {"NOTIFIER_STOP_GRACE": "60"}
    with service(env=env, port=port, output=output) as process:
        queue_a_long_task(env)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: "Notifier stops" in output.read_text())
        wait_until(lambda: not is_listening(port), timeout=6, what="clients are refused while the task is waited for")
        assert process.poll() is None
        assert stop(process, signal.SIGINT) == 0
    assert_clean(output, env)


def queue_a_long_task(env: Mapping[str, str]) -> None:
    manage("shell", "-c", "from django_q.tasks import async_task; async_task('time.sleep', 60)", env=env)
    running_now = "from durable_queue.models import Worker; print('busy', Worker.objects.exclude(lease=None).count())"
    wait_until(lambda: "busy 1" in manage("shell", "-c", running_now, env=env), what="a worker has the task")


# Hurt.


def _web(processes: list[psutil.Process]) -> list[psutil.Process]:
    return _with("notifier_project.service.web", processes)


def _queue(processes: list[psutil.Process]) -> list[psutil.Process]:
    return _with("qcluster", processes)


def _with(word: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    """The living processes that have this word in their command line."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if word in process.cmdline():
                found.append(process)
    return found


def test_service__each_process_killed(installation: dict[str, str], log_file: Path, output: Path, port: int) -> None:
    victims: dict[str, Callable[[list[psutil.Process]], psutil.Process]] = {
        "web": lambda processes: _web(processes)[0],
        "other web": lambda processes: _web(processes)[1],
        "queue worker": lambda processes: _queue(processes)[-1],
        "queue's upkeep": lambda processes: _queue(processes)[1],
        "queue": lambda processes: _queue(processes)[0],
    }
    with service(env=installation, port=port, output=output) as process:
        everybody = 7  # the manager; 2 web processes; the queue, its 2 workers and its upkeep process
        wait_until(lambda: len(processes_of(installation)) == everybody, what="all are there")
        for name, choose in victims.items():
            choose(processes_of(installation)).kill()
            wait_until(partial(is_accepted, port, f"/send-notification/{name}"), what=f"a post after the {name} died")
            wait_until(partial(is_written, log_file, f"message to {name}"), what=f"a line after the {name} died")
            wait_until(lambda: len(processes_of(installation)) == everybody, what="all are back")
        assert stop(process) == 0
    assert_clean(output, installation)


def is_written(file: Path, line: str) -> bool:
    return line in lines(file)


def is_accepted(port: int, path: str) -> bool:
    with suppress(httpx.TransportError):
        return post(port, path).status_code == 200
    return False


@selection.slow
@selection.once
def test_service__clients_wait_while_the_web_is_started_again(
    installation: dict[str, str], log_file: Path, output: Path, port: int
) -> None:
    with service(env=installation, port=port, output=output) as process:
        for web_process in _web(processes_of(installation)):
            web_process.kill()
        assert post(port, "/send-notification/alice").status_code == 200
        wait_until(partial(is_written, log_file, "message to alice"))
        assert stop(process) == 0
    assert_clean(output, installation)


@selection.slow
@selection.once
def test_service__only_the_web_has_its_socket(installation: dict[str, str], output: Path, port: int) -> None:
    with service(env=installation, port=port, output=output) as process:
        queue_a_long_task(installation)
        holders = {
            member.pid for member in processes_of(installation) if port in {c.laddr.port for c in member.net_connections()}
        }
        assert holders == {process.pid, *(member.pid for member in _web(processes_of(installation)))}
        process.kill()  # what is left of a task that still runs must not keep the port
        process.wait()
        with running([SERVE], env=installation | {"PORT": str(port)}, output=output) as again:
            wait_until(lambda: output.read_text().count("Notifier is ready") == 2 or again.poll() is not None, timeout=30)
            assert again.poll() is None, output.read_text()


@selection.slow
def test_service__manager_killed(installation: dict[str, str], log_file: Path, output: Path, port: int) -> None:
    with service(env=installation, port=port, output=output) as process:
        process.kill()
        process.wait()
    with service(env=installation, port=port, output=output) as process:
        post(port, "/send-notification/alice")
        wait_until(lambda: lines(log_file) == ["message to alice"])
        assert stop(process) == 0
    assert_clean(output, installation)


# Clients.


@selection.once
def test_web__beside_clients_that_hold_all_descriptors(installation: dict[str, str], output: Path, port: int) -> None:
    """Of 400 connections that send a beginning, the oldest is closed for a new one: the good one gets its answer."""
    manage("migrate", env=installation)
    command = ["prlimit", "--nofile=128", sys.executable, "-m", "notifier_project.service.web"]
    with running(command, env={**installation, "PORT": str(port)}, output=output), ExitStack() as stack:
        wait_until(lambda: is_listening(port), what="the web server listens")
        post(port, "/send-notification/first")  # the first request loads modules
        for number in range(400):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            with suppress(ConnectionError):
                client.send((b"X", b"PO", b"POST / HTTP/1.1\r\nHost: ")[number % 3])
        began = time.monotonic()
        assert post(port, "/send-notification/alice").status_code == 200
        assert time.monotonic() - began < 2
    assert "can't be accepted" not in output.read_text()


# What keeps it from starting is one line.


def refusal(env: Mapping[str, str]) -> str:
    """What scripts/serve says when it doesn't start."""
    result = subprocess.run([SERVE], env=os.environ | dict(env), capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@selection.once
def test_service__port_in_use(installation: dict[str, str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert refusal(installation | {"PORT": port}) == f"PORT: {port} is in use by another program; choose another\n"


@selection.slow
def test_service__two_at_the_same_moment_on_one_port(tmp_path: Path, port: int) -> None:
    outputs = [tmp_path / name for name in ("alice", "bob")]
    with ExitStack() as stack:
        starts = [
            stack.enter_context(running([SERVE], env=env | {"PORT": str(port)}, output=output))
            for output, env in ((output, stack.enter_context(new_installation(output.with_suffix(".d")))) for output in outputs)
        ]
        wait_until(
            lambda: sorted(str(start.poll()) for start in starts) == ["1", "None"] and is_ready(outputs),
            timeout=30,
            what="one is ready, and one has given up",
        )
        assert sum("PORT: " in output.read_text() for output in outputs) == 1


def is_ready(outputs: list[Path]) -> bool:
    return any("Notifier is ready" in output.read_text() for output in outputs)


@selection.slow
@selection.once
def test_service__second_copy(installation: dict[str, str], port: int, output: Path) -> None:
    with service(env=installation, port=port, output=output) as process:
        said = refusal(installation | {"PORT": str(free_port())})
        assert said.startswith("NOTIFIER_DATA_DIR: ")
        assert f"is in use by the service that runs as process {process.pid};" in said


@selection.slow_on_postgresql
@pytest.mark.parametrize(
    ("variables", "start"),
    selection.slow_after(
        2,
        [
            pytest.param({"HOST": "nowhere.invalid"}, "HOST: ", id="unknown host"),
            pytest.param({"HOST": "192.0.2.1"}, "HOST: ", id="host of another machine"),
            pytest.param({"DATABASE_URL": "sqlite:////nowhere/db"}, "DATABASE_URL: ", id="database without a folder"),
            pytest.param(
                {"NOTIFIER_LOG_FILE": "/nowhere/log.txt"}, "The log file's folder /nowhere does", id="log's folder missing"
            ),
            pytest.param({"NOTIFIER_STOP_GRACE": "soon"}, "Wrong setting. ", id="wrong value"),
        ],
    ),
)
def test_service__cannot_start(tmp_path: Path, port: int, variables: dict[str, str], start: str) -> None:
    env = {"NOTIFIER_DATA_DIR": str(tmp_path / "var"), "DATABASE_URL": "", "PORT": str(port)}
    assert refusal(env | variables).startswith(start)


# By hand.


@selection.slow_on_postgresql
def test_qcluster__told_to_stop_while_it_boots(installation: dict[str, str], output: Path) -> None:
    with running([sys.executable, "manage.py", "qcluster"], env=installation, output=output) as process:
        wait_until(lambda: catches(process.pid, signal.SIGTERM), what="it has a handler")
        assert stop(process) == 0
    assert output.read_text() == ""


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (proc(5), SigCgt)."""
    mask = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return mask is not None and bool(int(mask[1], 16) >> (number - 1) & 1)


@selection.slow
def test_asgi__under_another_server(installation: dict[str, str], log_file: Path, output: Path, port: int) -> None:
    manage("migrate", env=installation)
    command = [sys.executable, "-m", "uvicorn", "--http", "h11", "--loop", "asyncio", "--port", str(port)]
    with (
        running([*command, "notifier_project.asgi:application"], env=installation, output=output),
        queue_workers(env=installation, output=output),
    ):
        wait_until(lambda: is_accepted(port, "/send-notification/alice"))
        wait_until(lambda: lines(log_file) == ["message to alice"])
        assert "Log in" in httpx.get(f"http://127.0.0.1:{port}/admin/login/").text
