"""The quick half of the fault injection; `scripts/chaos` runs all of it."""

import os
import subprocess
import sys

import pytest

from tests.support import selection
from tests.support.environment import DATABASE
from tests.support.processes import PROJECT

# Of those that take the least time, one; the others run with --slow.
SCENARIOS = [pytest.param("chaos", marks=selection.slow_on_postgresql), "threads", "verbs_against_others"]
if DATABASE == "postgresql":
    SCENARIOS += ["restarts", "hosts", "snapshot", "schedules"]
else:  # no matter which database it is; `scripts/chaos` runs them on both
    SCENARIOS += ["kills", "poison", "stops", "fairness", "idle", "paused", "posts", "log_disk_full", "data_disk_full"]
    SCENARIOS += ["writes", "threads_in_transactions", "threads_pools", "schedules"]
    SCENARIOS += ["threads_stops", "threads_bad"]  # test_side_by_side.py has the others, smaller


@pytest.mark.timeout(200)
@pytest.mark.parametrize("scenario", selection.slow_after(1, SCENARIOS))
def test_chaos(scenario: str) -> None:
    # A scenario that is told to stop says where it stands, and stops what it has started.
    result = subprocess.run(
        ["timeout", "--foreground", "--kill-after=25", "150", sys.executable, "-m", "tests.support.chaos", "--quick", scenario],
        cwd=PROJECT,
        env=os.environ | {"TEST_DATABASE": DATABASE, "PYTEST_XDIST_WORKER": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
