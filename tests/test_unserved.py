"""Tasks that wait for a cluster which nobody runs: said in the output, by a system check and by `qinfo`."""

import io
import logging
from contextlib import redirect_stdout

import pytest
from django.core.management import call_command
from django.db import connection
from django_q.conf import Conf, logger
from django_q.models import OrmQ
from django_q.tasks import async_task
from pytest_django import Settings

from durable_queue import checks
from durable_queue.store import queues
from durable_queue.store.broker import Broker
from durable_queue.upkeep.unserved import Unserved
from tests.support.queue_rows import worker

pytestmark = pytest.mark.django_db


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What django-q2's logger says, which passes nothing on."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING)
    queues.warn_if_unknown.cache_clear()
    return caplog


def test_enqueue__for_an_unknown_cluster_is_said_once(said: pytest.LogCaptureFixture, settings: Settings) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": {"second": {}}}
    for cluster in (None, "notifier", "second", "nope", "nope"):
        async_task("math.hypot", 3, 4, cluster=cluster)
    (line,) = [record.getMessage() for record in said.records]
    assert "for the cluster 'nope'" in line
    assert "(notifier, second)" in line
    assert "`manage.py qcluster --name nope`" in line
    assert OrmQ.objects.filter(key="nope").count() == 2, "another project's cluster may serve it"


@pytest.mark.parametrize("alternatives", [None, {}, ["second"]])
def test_configured__without_other_clusters(settings: Settings, alternatives: object) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": alternatives}
    assert queues.configured() == {"notifier"}


def test_configured__in_the_process_of_another_cluster(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "ALT_CLUSTERS": {"second": {}, "third": {}}}
    monkeypatch.setattr(Conf, "CLUSTER_NAME", "second")
    assert queues.configured() == {"notifier", "second", "third"}


def test_unserved__counts_each_queue() -> None:
    for name in ("nope", "nope", "nope:alone", "notifier", "notifier:alone", "other"):
        Broker(name).enqueue_all(["x"], as_they_are=True)
    assert queues.unserved("default") == {"nope": 3, "notifier": 2, "other": 1}
    worker("alice", queue="notifier")
    assert queues.unserved("default") == {"nope": 3, "other": 1}
    worker("bob", queue="other:alone")
    assert queues.unserved("default") == {"nope": 3}


def test_unserved__reads_no_row_but_those_that_it_counts() -> None:
    """A queue of five million rows is one look into the index."""
    worker("alice", queue="notifier")
    Broker("notifier").enqueue_all(["x"] * 2_000, as_they_are=True)
    asked = OrmQ.objects.filter(key__gt="").order_by("key").values_list("key", flat=True)[:1]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE django_q_ormq")
    assert "cluster_claim" in asked.explain()


def test_upkeep__says_it_once_when_seen_twice(said: pytest.LogCaptureFixture) -> None:
    Broker("nope").enqueue_all(["x"], as_they_are=True)
    said.clear()
    duty = Unserved("default")
    lines = []
    for _ in range(4):
        duty.look()
        lines.append(len(said.records))
    assert lines == [0, 1, 1, 1]
    assert said.records[0].getMessage().startswith("1 task waits in the queue 'nope', which no worker serves: start")
    bob = worker("bob", queue="nope")
    duty.look()
    bob.delete()
    duty.look(), duty.look()
    assert len(said.records) == 2, "it is one again"


def test_check__names_the_remedy(settings: Settings) -> None:
    for name in ("nope", "notifier"):
        Broker(name).enqueue_all(["x"], as_they_are=True)
    (warning,) = checks.check_queues(None, databases=["default"])
    assert warning.id == "durable_queue.W004"
    assert "the queue 'nope'" in warning.msg
    assert "ALT_CLUSTERS" in str(warning.hint)
    assert checks.check_queues(None) == []
    worker("alice", queue="nope")
    assert checks.check_queues(None, databases=["default"]) == []


def test_qinfo__has_a_line_for_each() -> None:
    Broker("nope").enqueue_all(["x"], as_they_are=True)
    printed, own = io.StringIO(), io.StringIO()
    with redirect_stdout(printed):
        call_command("qinfo", stdout=own)
    assert "Clusters" in printed.getvalue()
    assert own.getvalue() == "1 task waits in the queue 'nope', which no worker serves\n"
