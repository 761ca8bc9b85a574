"""What `manage.py check` says of `Q_CLUSTER`."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django_q.conf import Conf
from pytest_django import Settings

from durable_queue import checks, conf
from durable_queue.schedule import checks as schedule_checks
from tests.support import environment, selection
from tests.support.processes import PROJECT


def test_q_cluster__as_it_is_shipped() -> None:
    assert checks.check_q_cluster(None) == []


def test_q_cluster__another_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Conf.conf, "broker_class", "django_q.brokers.orm.ORM")
    (error,) = checks.check_q_cluster(None)
    assert error.id == "durable_queue.E001"
    assert "broker_class" in error.msg


@pytest.mark.parametrize(
    ("key", "value", "id_"),
    [
        ("grace", -1, "durable_queue.E002"),
        ("claim", 0, "durable_queue.E002"),
        ("max_backlog", 0, "durable_queue.E002"),
        ("max_backlog", 1.5, "durable_queue.E002"),
        ("threads", 0, "durable_queue.E002"),
        ("threads", 2.5, "durable_queue.E002"),
        ("coroutines", "many", "durable_queue.E002"),
        ("connections", 0, "durable_queue.E002"),
        ("alone", "app.tasks.function", "durable_queue.E005"),
        ("alone", [len], "durable_queue.E005"),
        ("backoff_factor", "3", "durable_queue.E002"),
        ("retry_policies", {"app.task": {"tries": 3}}, "durable_queue.E003"),
        ("retry_policies", {"app.task": 3}, "durable_queue.E003"),
        ("retry_policies", {"app.task": {"attempts": "3"}}, "durable_queue.E003"),
    ],
)
def test_q_cluster__wrong_value(monkeypatch: pytest.MonkeyPatch, key: str, value: Any, id_: str) -> None:
    changes: dict[str, Any] = {key: value}
    monkeypatch.setattr(checks, "cluster_conf", replace(conf.cluster_conf, **changes))
    (error,) = checks.check_q_cluster(None)
    assert error.id == id_
    assert f"Q_CLUSTER['{key}']" in error.msg
    assert error.hint


def test_q_cluster__a_name_that_leaves_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conf, "CLUSTER_NAME", "x" * 94)
    assert not checks.check_q_cluster(None)
    monkeypatch.setattr(Conf, "CLUSTER_NAME", "x" * 95)
    (error,) = checks.check_q_cluster(None)
    assert (error.id, error.hint and "94 characters" in error.hint) == ("durable_queue.E006", True)


@pytest.mark.parametrize("name", ["Europe/Nowhere", "Europe", "/etc/passwd", "\0"])
def test_time_zone__that_does_not_exist(settings: Settings, name: str) -> None:
    assert schedule_checks.check_zone(None) == []
    settings.NOTIFIER_TIME_ZONE = name
    (error,) = schedule_checks.check_zone(None)
    assert error.id == "durable_queue.E011"
    assert "NOTIFIER_TIME_ZONE" in error.msg
    assert error.hint
    assert "Europe/Berlin" in error.hint


def test_time_zone__of_a_project_that_sets_none(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    del settings.NOTIFIER_TIME_ZONE
    monkeypatch.setattr(Conf, "TIME_ZONE", "Europe/Nowhere")  # that of Q_CLUSTER, else of Django
    (error,) = schedule_checks.check_zone(None)
    assert "Europe/Nowhere" in error.msg


def test_apps__in_the_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert schedule_checks.check_order(None) == []
    configs = sorted(apps.get_app_configs(), key=lambda config: config.name, reverse=True)
    assert [config.name for config in configs].index("durable_queue") < [config.name for config in configs].index("django_q")
    monkeypatch.setattr(apps, "get_app_configs", lambda: reversed(configs))
    (error,) = schedule_checks.check_order(None)
    assert (error.id, error.hint) == ("durable_queue.E010", 'List "durable_queue" before "django_q".')


def test_q_cluster__without_a_folder(tmp_path: Path) -> None:
    assert conf._own({"run_dir": tmp_path}).run_dir == tmp_path
    with pytest.raises(ImproperlyConfigured, match="run_dir"):
        conf._own({})


@pytest.mark.parametrize(
    ("version", "mended"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 53, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_sqlite__mended(version: tuple[int, int, int], *, mended: bool) -> None:
    assert checks.is_mended(version) is mended


def test_sqlite__a_release_with_the_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "SQLITE_MENDED", ((99, 0, 0),))
    found = checks.check_sqlite(None)
    assert [warning.id for warning in found] == (["durable_queue.W001"] if environment.DATABASE == "sqlite" else [])


class Routes:
    """A router that sends django-q2's models elsewhere."""

    write: str | None = None
    read: str | None = None

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        """Where rows are written."""
        return self.write if model._meta.app_label == "django_q" else None

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """Where they are read."""
        return self.read if model._meta.app_label == "django_q" else None


@pytest.mark.parametrize(
    ("orm", "routes", "found"),
    [
        (None, (None, None), []),
        ("default", (None, None), []),
        ("nowhere", (None, None), ["durable_queue.E007"]),
        ("default", ("second", "second"), ["durable_queue.E007"]),
        ("default", ("second", None), ["durable_queue.E007"]),
        ("default", (None, "replica"), ["durable_queue.W005"]),
    ],
)
def test_database__that_the_routers_know(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    orm: str | None,
    routes: tuple[str | None, str | None],
    found: list[str],
) -> None:
    monkeypatch.setattr(Conf, "ORM", orm)
    monkeypatch.setattr(Routes, "write", routes[0])
    monkeypatch.setattr(Routes, "read", routes[1])
    settings.DATABASE_ROUTERS = ["tests.test_cluster_checks.Routes"]
    messages = checks.check_database(None)
    assert [message.id for message in messages] == found
    assert all("orm" in message.msg and "DATABASE" in str(message.hint) for message in messages)
    assert not checks.check_sqlite(None) or orm != "nowhere"


def test_database__of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["default"], "vendor", "oracle")
    (error,) = checks.check_database(None)
    assert error.id == "durable_queue.E007"
    assert not checks.check_sqlite(None)
    for check in (checks.check_indexes, checks.check_ids, checks.check_queues):
        assert not check(None, databases=["default"]), "a database beside the queue's may be of any kind"


@selection.once
@pytest.mark.parametrize(
    ("changes", "q_cluster", "id_", "remedy"),
    [
        ({"USE_TZ": False}, {}, "durable_queue.E008", "USE_TZ = True"),
        ({}, {"orm": "second"}, "durable_queue.E007", "DATABASE_ROUTERS"),
        ({}, {"orm": "nowhere"}, "durable_queue.E007", "DATABASES"),
    ],
    ids=["USE_TZ", "a second database without a router", "no database"],
)
def test_qcluster__does_not_start(
    tmp_path: Path, changes: dict[str, Any], q_cluster: dict[str, Any], id_: str, remedy: str
) -> None:
    own = {"DJANGO_SETTINGS_MODULE": "tests.support.wrong_settings", "NOTIFIER_DATA_DIR": str(tmp_path / "var")}
    own |= {"TEST_SETTINGS": json.dumps(changes), "TEST_Q_CLUSTER": json.dumps(q_cluster)}
    run = subprocess.run(
        [sys.executable, "manage.py", "qcluster", "--run-once"],
        env=os.environ | own,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert id_ in run.stderr
    assert remedy in run.stderr
    assert "Traceback" not in run.stderr
    assert "starts with" not in run.stderr
