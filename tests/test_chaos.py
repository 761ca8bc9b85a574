"""The quick half of the fault injection; `scripts/chaos` runs all of it."""

import os
import subprocess
import sys

import pytest

from tests.support.environment import DATABASE
from tests.support.processes import PROJECT

SCENARIOS = ["kills", "chaos", "writes", "poison", "stops", "fairness", "idle", "paused", "posts", "log_disk_full"]
SCENARIOS += ["threads", "threads_stops", "threads_bad"]  # test_side_by_side.py has the others, smaller
SCENARIOS += ["hosts", "restarts"] if DATABASE == "postgresql" else ["data_disk_full"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_chaos(scenario: str) -> None:
    result = subprocess.run(
        ["timeout", "--foreground", "--kill-after=9", "100", sys.executable, "-m", "tests.support.chaos", "--quick", scenario],
        cwd=PROJECT,
        env=os.environ | {"TEST_DATABASE": DATABASE, "PYTEST_XDIST_WORKER": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
