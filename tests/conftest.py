"""Fixtures that several test modules share."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connections
from django_q.models import OrmQ
from pytest_django import Settings

from durable_queue.store.broker import Broker
from tests.support.clusters import Cluster, cluster_in
from tests.support.installations import new_installation
from tests.support.promised_tasks import notes_file


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


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Run a cluster of one worker with 40 threads, until the end of a `with`: tests/support/clusters.py."""
    return cluster_in(tmp_path)


@pytest.fixture
def no_notes() -> None:
    """No notes of tests before."""
    notes_file().unlink(missing_ok=True)


@pytest.fixture
def another(broker: Broker) -> Iterator[ThreadPoolExecutor]:
    """Another thread, which has queued a task already: it is connected, and its connection knows the statements."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(broker.enqueue, "first").result(20)
        OrmQ.objects.all().delete()
        yield thread
        thread.submit(connections.close_all).result(20)
