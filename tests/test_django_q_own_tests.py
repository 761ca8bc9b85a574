"""Those of django-q2's own tests that apply here, on our broker; docs/django-q2.md has all, and why the others don't apply."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

from tests.support import selection
from tests.support.environment import DATABASE
from tests.support.processes import PROJECT

pytestmark = selection.slow

APPLY = """
    test_brokers::test_orm
    test_brokers::test_broker
    test_brokers::test_broker_set_stat_prunes_stale_master_list
    test_brokers::test_broker_set_stat_skips_master_list_write_on_repeat
    test_cached::test_iter
    test_cached::test_iter_default_cache_timeout
    test_cached::test_chain
    test_cached::test_asynctask_class
    test_cluster::test_sync
    test_cluster::test_sync_raise_exception
    test_cluster::TestSignals::test_pre_enqueue_signal
    test_cluster::test_add_months
    test_cluster::test_add_years
    test_commands::test_qinfo
    test_commands::test_qmonitor
    test_commands::test_qmemory
    test_monitor::test_info
    test_scheduler::test_scheduler_atomic_must_specify_the_write_db
    test_scheduler::test_scheduler_atomic_must_specify_the_database_based_on_router_redirection
    test_scheduler::test_localtime
    test_scheduler::test_naive_localtime
"""

# Those that close connections in the midst of a transaction, so that they need a database in memory.
IN_MEMORY = """
    test_cached::test_cached
    test_cluster::test_cluster
    test_cluster::test_results
    test_cluster::test_enqueue
    test_cluster::TestSignals::test_pre_execute_signal
    test_cluster::TestSignals::test_post_execute_signal
    test_cluster::TestSignals::test_post_execute_in_worker_signal
    test_scheduler::test_scheduler_daylight_saving_time_daily
    test_scheduler::test_intended_schedule_kwarg
"""

# Those of them that need croniter, which django-q2 leaves to its users to install.
WITH_CRON = """
    test_scheduler::test_scheduler
    test_scheduler::test_schedule_save_sets_next_run_for_cron
    test_scheduler::test_schedule_save_direct_db
"""


def applicable() -> list[str]:
    """The tests that apply to this run's database."""
    names = APPLY.split()
    if DATABASE == "sqlite":
        names += IN_MEMORY.split()
        names += WITH_CRON.split() if find_spec("croniter") else []
    return names


def run(names: list[str]) -> subprocess.CompletedProcess[str]:
    """Run some of django-q2's tests, with its warnings; each has 20 seconds."""
    options = ["--ds", "tests.support.django_q_settings", "-p", "no:randomly", "-o", "filterwarnings=", "--timeout", "20", "-q"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--pyargs", *(f"django_q.tests.{name}" for name in names)],
        cwd=PROJECT,
        env=os.environ | {"TEST_DATABASE": DATABASE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_django_qs_own_tests() -> None:
    names = applicable()
    result = run(names)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(rf"^{len(names)} passed", result.stdout, re.MULTILINE), result.stdout


def test_documentation__lists_the_tests_that_are_run() -> None:
    page = (PROJECT / "docs" / "django-q2.md").read_text()
    tables = page.partition("## Its own tests")[2]
    named = [name.rpartition("::")[2] for name in (APPLY + IN_MEMORY + WITH_CRON).split()]
    assert [name for name in named if f"`{name}`" not in tables] == []
