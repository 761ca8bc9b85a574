"""notifications/checks.py: what would make every write fail is said at the start."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.checks import run_checks
from pytest_django import Settings

from tests.support.processes import PROJECT

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's privileges: to root no folder is read-only."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that anybody may enter; pytest's own belong to the user alone."""
    run_checks()  # Django's own make the cache's folder when they run first, which nobody may
    with tempfile.TemporaryDirectory(prefix="notifier-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)


def problems() -> list[str | None]:
    """The ids of this project's checks that fail."""
    return [message.id for message in run_checks() if (message.id or "").startswith("notifications.")]


def test_log_file__absent_in_a_writable_folder(log_file: Path) -> None:
    assert not log_file.exists()
    assert problems() == []
    assert not log_file.exists(), "looking must not make it"


def test_log_file__is_a_folder(log_file: Path) -> None:
    log_file.mkdir()
    assert problems() == ["notifications.E001"]


@pytest.mark.parametrize("between", ["missing", "a-file"])
def test_log_file__has_no_folder(between: str, tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a-file").touch()
    settings.NOTIFIER_LOG_FILE = tmp_path / between / "log.txt"
    assert problems() == ["notifications.E002"]


def test_log_file__folder_may_not_be_written_to(folder: Path, settings: Settings) -> None:
    settings.NOTIFIER_LOG_FILE = folder / "log.txt"
    folder.chmod(0o777)
    with as_nobody():
        assert problems() == []
    folder.chmod(0o555)
    with as_nobody():
        assert problems() == ["notifications.E003"]


def test_log_file__may_not_be_written_to(folder: Path, settings: Settings) -> None:
    log = settings.NOTIFIER_LOG_FILE = folder / "log.txt"
    log.touch()
    log.chmod(0o666)
    with as_nobody():
        assert problems() == ["notifications.W001"]  # nothing can be renamed over it in that folder
    log.chmod(0o444)
    with as_nobody():
        assert problems() == ["notifications.E003"]


def test_log_file__folder_may_not_be_entered(folder: Path, settings: Settings) -> None:
    (folder / "inner").mkdir(mode=0o777)
    settings.NOTIFIER_LOG_FILE = folder / "inner" / "log.txt"
    folder.chmod(0o000)
    with as_nobody():
        assert problems() == ["notifications.E002"]


def test_check_command__names_the_remedy(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "manage.py", "check"],
        env=os.environ | {"NOTIFIER_LOG_FILE": str(tmp_path / "missing" / "log.txt")},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "notifications.E002" in result.stderr
    assert "HINT: Set NOTIFIER_LOG_FILE" in result.stderr
    assert "Traceback" not in result.stderr
