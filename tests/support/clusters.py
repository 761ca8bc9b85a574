"""Clusters of real worker processes on the database of the running test."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django_q.models import OrmQ

from durable_queue.conf import cluster_conf
from durable_queue.models import Worker
from durable_queue.work.progress import Progress
from durable_queue.work.slot import Stage
from tests.support import environment
from tests.support.processes import queue_workers, wait_until

Cluster = Callable[..., Any]


def cluster_in(folder: Path) -> Cluster:
    """What runs a cluster of one worker with 40 threads, until the end of a `with`. Keywords differ in its `Q_CLUSTER`.
    `env`: more of its environment.

    Its output goes to a file in the folder.
    """
    own = {"DATABASE_URL": environment.database_url_of_test(), "DJANGO_SETTINGS_MODULE": "tests.support.promised_settings"}

    @contextmanager
    def run(*, workers: int = 1, ends_with: int = 0, env: Mapping[str, str] | None = None, **q_cluster: Any) -> Iterator[Path]:
        settings = {"threads": 40, "workers": workers} | q_cluster
        output = folder / "output"
        with queue_workers(env=own | dict(env or {}) | {"TEST_Q_CLUSTER": json.dumps(settings)}, output=output) as process:
            wait_until(lambda: Worker.objects.count() >= workers, timeout=60, what="the workers work")
            yield output
            process.terminate()
            assert process.wait(15) == ends_with

    return run


def all_end(*, timeout: float = 20.0) -> None:
    """Wait until the queue is empty."""
    wait_until(lambda: not OrmQ.objects.exists(), timeout=timeout, what="all tasks have ended")


def wait_until_begun(count: int, *, run_dir: Path = cluster_conf.run_dir) -> None:
    """Wait until the workers run so many tasks at once. `run_dir`: that of their cluster."""

    def have_begun() -> bool:
        files = [run_dir / f"{name}.progress" for name in Worker.objects.values_list("name", flat=True)]
        in_hand = [found for path in files if path.exists() for found in Progress(path).in_hand]
        return sum(found.stage is Stage.RUNNING for found in in_hand) >= count

    wait_until(have_begun, what=f"{count} tasks have begun")
