"""Random requests to a real service; `scripts/fuzz` makes many more."""

import random
from pathlib import Path

import pytest

from tests.support import fuzz, selection

pytestmark = selection.slow_on_postgresql

START = random.SystemRandom().randrange(1_000_000)  # pytest-randomly's seed is the same in all runs of a bad day


@pytest.mark.timeout(600)
def test_api__answers_as_it_is_described(tmp_path: Path) -> None:
    figures, findings = fuzz.fuzz_api_in(tmp_path, cases=500, at_once=10, start=START)
    assert findings == [], f"seed {START}: {figures}"


@pytest.mark.timeout(600)
def test_sockets__bad_clients_stop_nobody(tmp_path: Path) -> None:
    figures, findings = fuzz.fuzz_sockets_in(tmp_path, seconds=8, at_once=20, start=START)
    assert findings == [], f"seed {START}: {figures}"
