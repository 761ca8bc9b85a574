"""Fixtures that several test modules share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from tests.installations import new_installation


@pytest.fixture(autouse=True)
def log_file(tmp_path: Path, settings: Settings) -> Path:
    """An absent log of the test's own."""
    path = tmp_path / "log.txt"
    settings.NOTIFIER_LOG_FILE = path
    return path


@pytest.fixture
def installation(tmp_path: Path, log_file: Path) -> Iterator[dict[str, str]]:
    """The environment of an installation of its own, for real processes: data folder, log file and an empty database."""
    with new_installation(tmp_path) as env:
        yield env
