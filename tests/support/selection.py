"""A pytest plugin that selects which tests run: by the run's database, and by the time that they take.

A test that is not selected is not collected. So a skipped one lacks something on this machine, and that fails the run,
unless `--allow-missing` allows it.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from tests.support.environment import DATABASE

on_sqlite = pytest.mark.on("sqlite")  # of what SQLite alone does
on_postgresql = pytest.mark.on("postgresql")  # of what a server alone does
once = pytest.mark.on("sqlite")  # the database makes no difference
slow = pytest.mark.slow("sqlite", "postgresql")  # another test of its kind is quicker: it runs with `--slow`
slow_on_postgresql = pytest.mark.slow("postgresql")  # the database makes little difference

_is_missing_allowed = False


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `scripts/test`."""
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption("--allow-missing", action="store_true", help="skip the tests for which this machine lacks something")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    global _is_missing_allowed  # noqa: PLW0603 - whoever misses something has no `config` at hand
    _is_missing_allowed = config.getoption("--allow-missing")
    settings.register_profile("quick", max_examples=50)
    settings.register_profile("slow", max_examples=200)
    settings.load_profile("slow" if config.getoption("--slow") else "quick")
    config.addinivalue_line("markers", "on(database): it runs on this database alone")
    config.addinivalue_line("markers", "slow(*databases): on these it runs with --slow alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that don't run this time."""
    slow_too = config.getoption("--slow")
    selected: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        (selected if _is_selected(item, slow_too=slow_too) else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = selected


def _is_selected(item: pytest.Item, *, slow_too: bool) -> bool:
    is_elsewhere = any(DATABASE not in mark.args for mark in item.iter_markers("on"))
    is_slow = any(DATABASE in mark.args for mark in item.iter_markers("slow"))
    return not is_elsewhere and (slow_too or not is_slow)


def missing(what: str) -> NoReturn:
    """This machine lacks `what`, which the running test needs: fail it, or skip it where that is allowed."""
    if _is_missing_allowed:
        pytest.skip(f"missing: {what}")
    pytest.fail(f"missing on this machine: {what}. With --allow-missing, the tests that need it are skipped.", pytrace=False)


def installed(program: str, *packages: str) -> str:
    """The path of a program from Debian's packages, which are installed where that is possible; else it is `missing`."""
    if not shutil.which(program) and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], check=True)
    return shutil.which(program) or missing(f"{program}: sudo apt-get install {' '.join(packages)}")


def slow_after(quick: int, values: Sequence[Any]) -> list[Any]:
    """For `pytest.mark.parametrize`: of these values, the first `quick` ones stand for all, and the others are slow."""
    return [*values[:quick], *map(_as_slow, values[quick:])]


def _as_slow(value: Any) -> Any:
    if isinstance(value, type(pytest.param())):
        return pytest.param(*value.values, marks=[*value.marks, slow], id=value.id)
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=slow)
