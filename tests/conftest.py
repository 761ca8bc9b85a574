"""Fixtures that several test modules share."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from tests import environment


@pytest.fixture(autouse=True)
def log_file(tmp_path: Path, settings: Settings) -> Path:
    """An absent log of the test's own."""
    path = tmp_path / "log.txt"
    settings.NOTIFIER_LOG_FILE = path
    return path


@pytest.fixture
def installation(tmp_path: Path, log_file: Path) -> Iterator[dict[str, str]]:
    """The environment of an installation of its own, for real processes: data folder, log file and an empty database."""
    env = {
        "NOTIFIER_DATA_DIR": str(tmp_path / "var"),
        "NOTIFIER_LOG_FILE": str(log_file),
        "DATABASE_URL": "",
    }
    if environment.DATABASE == "sqlite":
        yield env
    else:
        name = f"test_{uuid.uuid4().hex}"
        with environment.administration() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
        yield env | {"DATABASE_URL": environment.database_url(name)}
        with environment.administration() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
