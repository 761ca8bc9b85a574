"""One line each, whatever becomes of the folders and hosts around it: moved, linked, doubled, frozen, pointed elsewhere."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import environment, selection
from tests.support.hosts import host
from tests.support.installations import new_installation
from tests.support.processes import PROJECT, free_port, manage, queue_workers, wait_until

SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.support.writing_settings"}


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of an installation with its tables."""
    (tmp_path / "1").mkdir()
    with new_installation(tmp_path / "1") as env:
        manage("migrate", env=env | SETTINGS)
        yield env | SETTINGS


def queue(function: str, *args: str, env: dict[str, str]) -> None:
    """Queue one of the tasks of tests/support/writing_tasks.py."""
    call = f"async_task('tests.support.writing_tasks.{function}', *{args!r})"
    manage("shell", "--no-imports", "--command", f"from django_q.tasks import async_task; {call}", env=env)


def submit_failed_again(env: dict[str, str]) -> None:
    """Have all failed tasks run once more."""
    code = "from django_q.models import Failure; from durable_queue.verbs import retry; "
    code += "print([retry(pk, by='alice') for pk in Failure.objects.values_list('pk', flat=True)])"
    assert "done" in manage("shell", "--no-imports", "--command", code, env=env)


def run(env: dict[str, str]) -> None:
    """Run all that is due."""
    manage("qcluster", "--run-once", "--workers", "1", env=env)


def allow(env: dict[str, str]) -> None:
    """Let `write_until_allowed` succeed."""
    (Path(env["NOTIFIER_DATA_DIR"]) / "marks" / "allowed").touch()


def lines(env: dict[str, str]) -> list[str]:
    """The log's short lines."""
    return [line for line in Path(env["NOTIFIER_LOG_FILE"]).read_text().splitlines() if len(line) < 100]


def fail(env: dict[str, str]) -> None:
    """Leave a failed task that has written a line."""
    queue("write_until_allowed", "once\n", env=env)
    run(env)
    assert lines(env) == ["once"]


def assert_written_once(env: dict[str, str]) -> None:
    """The task's next attempt succeeds, and has nothing to write."""
    allow(env)
    submit_failed_again(env)
    run(env)
    assert lines(env) == ["once"]


@selection.once
def test_folder__was_moved(env: dict[str, str], tmp_path: Path) -> None:
    fail(env)
    (tmp_path / "1").rename(tmp_path / "2")
    moved = {name: value.replace(str(tmp_path / "1"), str(tmp_path / "2")) for name, value in env.items()}
    assert_written_once(moved)


@selection.slow
@selection.once
def test_log__by_another_spelling(env: dict[str, str], tmp_path: Path) -> None:
    fail(env)
    (tmp_path / "linked").symlink_to(tmp_path / "1")
    assert_written_once(env | {"NOTIFIER_LOG_FILE": str(tmp_path / "linked" / "log.txt")})


@selection.once
@pytest.mark.parametrize("link", selection.slow_after(1, ["hardlink_to", "symlink_to"]))
def test_log__linked_into_another_release(env: dict[str, str], tmp_path: Path, link: str) -> None:
    fail(env)
    other = tmp_path / "releases" / "log.txt"
    other.parent.mkdir()
    getattr(other, link)(env["NOTIFIER_LOG_FILE"])
    assert_written_once(env | {"NOTIFIER_LOG_FILE": str(other)})


@selection.slow
def test_database__pointed_elsewhere_and_back(env: dict[str, str], tmp_path: Path) -> None:
    """With a trim between, at which the other database was asked."""
    fail(env)
    with another_database(tmp_path) as url:
        elsewhere = env | {"DATABASE_URL": url}
        manage("migrate", env=elsewhere)
        queue("write_much", env=elsewhere)
        run(elsewhere)
    assert_written_once(env)


@contextmanager
def another_database(tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    (tmp_path / "another").mkdir()
    with new_installation(tmp_path / "another") as another:
        yield another["DATABASE_URL"] or f"sqlite:///{tmp_path / 'another' / 'db.sqlite3'}"


@selection.slow
def test_database__restored_from_before_a_trim(env: dict[str, str], tmp_path: Path) -> None:
    """The start says so; what the copy brings back is at least once, as docs/exactly-once.md says."""
    fail(env)
    with copied_database(env, tmp_path) as url:
        allow(env)
        submit_failed_again(env)
        run(env)
        queue("write_much", env=env)
        run(env)
        restored = env | {"DATABASE_URL": url}
        said = [start(restored).count("was restored from a copy that was made before the journal's trim") for _ in range(2)]
        assert said == [1, 0]
        submit_failed_again(restored)
        run(restored)
    assert lines(env) == ["once", "once"]


@contextmanager
def copied_database(env: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The URL of a copy of the installation's database as it is now."""
    if not env["DATABASE_URL"]:
        original = Path(env["NOTIFIER_DATA_DIR"]) / "db.sqlite3"
        with closing(sqlite3.connect(original)) as source, closing(sqlite3.connect(tmp_path / "copy")) as copy:
            source.backup(copy)
        yield f"sqlite:///{tmp_path / 'copy'}"
        return
    name = urlsplit(env["DATABASE_URL"]).path.strip("/")
    with environment.administration() as cursor:
        cursor.execute(f'CREATE DATABASE "copy_of_{name}" TEMPLATE "{name}"')
    yield environment.database_url(f"copy_of_{name}")
    with environment.administration() as cursor:
        cursor.execute(f'DROP DATABASE "copy_of_{name}" WITH (FORCE)')


def start(env: dict[str, str], *command: str, code: int = 0) -> str:
    """Run a program of the service to its end; return what it said."""
    result = subprocess.run(
        [sys.executable, *(command or ("manage.py", "qcluster", "--run-once", "--workers", "1"))],
        env=os.environ | env,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == code, result.stdout
    return result.stdout


@selection.slow
def test_service__a_second_one_with_another_data_folder(env: dict[str, str], tmp_path: Path) -> None:
    """One database, one log: a cron job that forgot `NOTIFIER_DATA_DIR` is told so, and does nothing."""
    database = env["DATABASE_URL"] or f"sqlite:///{env['NOTIFIER_DATA_DIR']}/db.sqlite3"
    secret = "one secret key for both, and as long as it has to be"  # noqa: S105
    first = env | {"DATABASE_URL": database, "SECRET_KEY": secret}
    second = first | {"NOTIFIER_DATA_DIR": str(tmp_path / "forgot"), "PORT": str(free_port())}
    owner = Path(env["NOTIFIER_LOG_FILE"]).with_name(".log.txt.owner")
    with queue_workers(env=first, output=tmp_path / "output"):
        wait_until(owner.exists, what="the first one holds the log")
        for command in (("manage.py", "qcluster", "--run-once"), ("-m", "notifier_project.service.serve")):
            said = start(second, *command, code=1)
            assert env["NOTIFIER_DATA_DIR"] in said
            assert second["NOTIFIER_DATA_DIR"] in said
        queue("write_until_allowed", "once\n", env=first)
        wait_until(lambda: Path(env["NOTIFIER_LOG_FILE"]).exists(), what="the first one works on")


@selection.slow
def test_host__frozen_in_the_middle_of_a_task(env: dict[str, str], tmp_path: Path) -> None:
    """Another host ends its task, and what it wrote is trimmed; thawed, the first one may not write it again."""
    log, marks = Path(env["NOTIFIER_LOG_FILE"]), Path(env["NOTIFIER_DATA_DIR"]) / "marks"
    queue("write_once_told", "once\n", env=env)
    with ExitStack() as stack:
        frozen = stack.enter_context(host("alpha", env=env, output=tmp_path / "alpha", workers=1))
        wait_until((marks / "waits-alpha").exists, what="alpha has the task in hand")
        processes = [frozen, *frozen.children(recursive=True)]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        stack.enter_context(host("beta", env=env, output=tmp_path / "beta", workers=1))
        wait_until((marks / "waits-beta").exists, timeout=40, what="beta has the task in hand")
        (marks / "told").touch()
        wait_until(log.exists, what="beta has written")
        queue("write_much", env=env)
        journal = Path(env["NOTIFIER_DATA_DIR"]) / "journal" / "log"
        wait_until(lambda: len(log.read_bytes()) > 1 << 20 and journal.stat().st_size < 1 << 20, what="beta has trimmed")
        for process in reversed(processes):
            process.send_signal(signal.SIGCONT)
        wait_until(lambda: "taken for dead" in (tmp_path / "alpha").read_text(), what="alpha notices")
    assert lines(env) == ["once"]
