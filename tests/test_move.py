"""An installation whose queue was an app named `cluster`: durable_queue/migrations/0008_own_names.py, and paths that moved."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django_q.conf import Conf

from durable_queue import checks
from durable_queue.conf import cluster_conf
from durable_queue.task.calls import IN_ORDER, resolve, run_in_order
from durable_queue.task.policy import policy_for
from durable_queue.work import kernel
from tests.support import environment, selection
from tests.support.installations import execute, new_installation
from tests.support.processes import PROJECT, free_port, manage

LAST_OF_OLD = "0007_note"
FIRST_VERSION = "0005_lease_without_index"

SCHEMA = {
    "sqlite": "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name",
    "postgresql": """
        SELECT 'column', table_name, column_name, data_type || is_nullable FROM information_schema.columns
            WHERE table_schema = 'public'
        UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT 'sequence', sequencename, '', '' FROM pg_sequences WHERE schemaname = 'public'
        ORDER BY 1, 2, 3, 4
    """,
}


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of an installation without tables."""
    with new_installation(tmp_path / "old") as env:
        yield env


def make_old(env: dict[str, str], migration: str = LAST_OF_OLD) -> None:
    """Give the installation the tables of the app that was named `cluster`, up to this migration."""
    manage("migrate", env=env)
    manage("migrate", "durable_queue", migration, env=env)
    execute(env, "DELETE FROM django_migrations WHERE app = 'durable_queue'")
    of_today = "content_type_id IN (SELECT id FROM django_content_type WHERE app_label = 'durable_queue')"
    execute(env, f"DELETE FROM auth_permission WHERE {of_today}")  # noqa: S608
    execute(env, "DELETE FROM django_content_type WHERE app_label = 'durable_queue'")
    assert ("cluster", migration) in execute(env, "SELECT app, name FROM django_migrations")


def tables(env: dict[str, str]) -> set[str]:
    """The names of the queue's own tables."""
    column = "name FROM sqlite_master" if environment.DATABASE == "sqlite" else "tablename FROM pg_tables"
    named = {name for (name,) in execute(env, f"SELECT {column}")}
    return named & (OLD | NEW)


OLD = {"cluster_worker", "cluster_attempt", "cluster_deadletter", "cluster_note"}
NEW = {f"durable_queue_{name}" for name in ("worker", "failedattempt", "deadletter", "note")}


@pytest.mark.parametrize("migration", selection.slow_after(1, [LAST_OF_OLD, FIRST_VERSION]))
def test_migrate__ends_with_the_schema_of_a_new_database(migration: str, env: dict[str, str], tmp_path: Path) -> None:
    make_old(env, migration)
    assert not tables(env) & NEW
    manage("migrate", env=env)
    assert tables(env) == NEW
    with new_installation(tmp_path / "new") as new:
        manage("migrate", env=new)
        assert execute(env, SCHEMA[environment.DATABASE]) == execute(new, SCHEMA[environment.DATABASE])


@selection.slow
def test_migrate__keeps_permissions_and_the_admin_s_log(env: dict[str, str]) -> None:
    make_old(env)
    worker = "content_type_id = (SELECT id FROM django_content_type WHERE app_label = 'cluster' AND model = 'worker')"
    (before,) = execute(env, f"SELECT id FROM auth_permission WHERE codename = 'view_worker' AND {worker}")  # noqa: S608
    manage("migrate", env=env)
    found = execute(
        env,
        "SELECT p.id, t.app_label FROM auth_permission p JOIN django_content_type t ON t.id = p.content_type_id"
        " WHERE p.codename = 'view_worker'",
    )
    assert found == [(*before, "durable_queue")]


@selection.slow
def test_migrate__and_back(env: dict[str, str]) -> None:
    make_old(env)
    manage("migrate", env=env)
    manage("migrate", "durable_queue", LAST_OF_OLD, env=env)
    assert tables(env) == OLD
    labels = {label for (label,) in execute(env, "SELECT app_label FROM django_content_type WHERE model = 'worker'")}
    assert "cluster" in labels


def insert_worker(env: dict[str, str], *, host: str, pid: int, born: int, heartbeat: str) -> None:
    """A row of the old table."""
    columns = "name, queue, host, pid, born, supervisor, supervisor_pid, restarts, started, heartbeat"
    values = f"'{pid}', 'notifier', '{host}', {pid}, {born}, '{'0' * 32}', 1, 0, {heartbeat}, {heartbeat}"
    execute(env, f"INSERT INTO cluster_worker ({columns}) VALUES ({values})")  # noqa: S608


# A minute ahead: on a busy machine it takes a while until `migrate` looks.
NOW = "datetime('now', '+1 minute')" if environment.DATABASE == "sqlite" else "now() + interval '1 minute'"
LONG_AGO = "datetime('now', '-1 minute')" if environment.DATABASE == "sqlite" else "now() - interval '1 minute'"


@selection.slow_on_postgresql
def test_migrate__refuses_while_a_worker_lives(env: dict[str, str]) -> None:
    make_old(env)
    me, here = os.getpid(), kernel.host_id()
    insert_worker(env, host=here, pid=me, born=kernel.born(me), heartbeat=LONG_AGO)
    insert_worker(env, host="elsewhere", pid=7, born=1, heartbeat=NOW)
    with pytest.raises(AssertionError) as refused:
        manage("migrate", env=env)
    said = str(refused.value)
    assert f"Stop the workers first, then migrate again; these are running: {me} on {here}, 7 on elsewhere." in said
    assert "Traceback" not in said
    assert tables(env) == OLD


@selection.slow
def test_serve__refuses_while_a_worker_lives(env: dict[str, str]) -> None:
    make_old(env)
    me = os.getpid()
    insert_worker(env, host=kernel.host_id(), pid=me, born=kernel.born(me), heartbeat=NOW)
    command = [sys.executable, "-m", "notifier_project.service.serve"]
    full_env = os.environ | env | {"PORT": str(free_port())}
    said = subprocess.run(command, env=full_env, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 1
    assert said.stderr.startswith("Stop the workers first")
    assert "Traceback" not in said.stderr


@selection.slow
def test_migrate__beside_dead_workers(env: dict[str, str]) -> None:
    make_old(env)
    gone = max(psutil.pids()) + 1000
    insert_worker(env, host=kernel.host_id(), pid=gone, born=1, heartbeat=NOW)
    insert_worker(env, host="elsewhere", pid=7, born=1, heartbeat=LONG_AGO)
    manage("migrate", env=env)
    assert execute(env, "SELECT count(*) FROM durable_queue_worker") == [(2,)]


# Paths.


def test_resolve__a_path_that_has_moved() -> None:
    assert resolve("notifications.background.run_in_order") is run_in_order
    assert resolve(IN_ORDER) is run_in_order
    assert resolve("notifications.cluster.history.call_hook_of").__name__ == "call_hook_of"


def test_policy_for__the_setting_names_a_path_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cluster_conf.retry_policies, "notifications.background.run_in_order", {"attempts": 2})
    assert policy_for(IN_ORDER, run_in_order).attempts == 2


def test_check__the_broker_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Conf.conf, "broker_class", "notifications.cluster.broker.Broker")
    (error,) = checks.check_q_cluster(None)
    assert isinstance(error.hint, str)
    assert checks.BROKER in error.hint


def test_public_api() -> None:
    import durable_queue  # noqa: PLC0415

    named: dict[str, Any] = {name: getattr(durable_queue, name) for name in durable_queue.__all__}
    assert named["run_in_order"] is run_in_order
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        durable_queue.nothing  # noqa: B018
