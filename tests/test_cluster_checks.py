"""What `manage.py check` says of `Q_CLUSTER`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django_q.conf import Conf

from durable_queue import checks, conf
from tests.support import environment


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
