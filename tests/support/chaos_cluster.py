"""Helpers of the scenarios of `scripts/chaos`: start a cluster, find its processes, enqueue, and read what came of it."""

from tests.support import environment  # first: it says where everything is  # isort: skip

import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import django
import psutil

from tests.support.processes import running, wait_until

django.setup()

from django.db import Error as DatabaseError  # noqa: E402
from django.db import connection  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_q.models import OrmQ, Task  # noqa: E402
from django_q.tasks import async_task  # noqa: E402

from durable_queue.models import DeadLetter, FailedAttempt, Worker  # noqa: E402

FOLDER = environment.FOLDER
OUTPUT = FOLDER / "output"
WORKERS = 2

# The service's parent, with nothing but the cluster to look after.
PARENT = """
import sys
from notifier_project.service.parent import Program, ServiceParent
command = [sys.executable, "manage.py", "qcluster", "--workers", "{workers}"]
sys.exit(ServiceParent([Program("The queue", command)], stop_limit=20.0).run())
"""

# Where tasks are killed and fail again and again: none of them runs out of attempts, or waits for minutes.
PATIENT_SETTINGS = """
from notifier_project.settings import *
from notifier_project.settings import Q_CLUSTER

Q_CLUSTER |= {"max_attempts": 0, "backoff_base": 0.1, "backoff_factor": 1.0}
"""


# The cluster under test.


@contextlib.contextmanager
def managed_cluster(settings_module: str = "notifier_project.settings") -> Iterator[psutil.Process]:
    """A cluster under the service's parent, which starts the cluster again whenever it ends."""
    env = {"DJANGO_SETTINGS_MODULE": settings_module, "PYTHONPATH": str(FOLDER)}
    start = PARENT.format(workers=WORKERS)
    with running([sys.executable, "-c", start], env=env, output=OUTPUT) as process:
        manager = psutil.Process(process.pid)
        with evidence(manager):
            wait_until(lambda: len(workers_of(supervisor_of(manager))) == WORKERS, what="the workers work")
            yield manager
        process.terminate()
        process.wait(20)
    wait_until(lambda: not leftovers(), what="no process is left")


@contextlib.contextmanager
def cluster(*options: str, settings_module: str = "notifier_project.settings") -> Iterator[subprocess.Popen[bytes]]:
    """A cluster without the service's parent."""
    command = [sys.executable, "manage.py", "qcluster", "--workers", str(WORKERS), *options]
    with (
        running(command, env={"DJANGO_SETTINGS_MODULE": settings_module}, output=OUTPUT) as process,
        evidence(psutil.Process(process.pid)),
    ):
        yield process


@contextlib.contextmanager
def evidence(root: psutil.Process) -> Iterator[None]:
    """Add to what is raised meanwhile, for somebody who asks why: the processes, the output's end, and the first rows."""
    try:
        yield
    except BaseException as error:
        found = [f"at {timezone.now()}:", OUTPUT.read_text()[-6000:]]
        with contextlib.suppress(psutil.Error):
            found += [f"{child} {child.status()}" for child in (root, *root.children(recursive=True))]
        with contextlib.suppress(DatabaseError):
            found += [
                f"{model.__name__}: {row}" for model in (OrmQ, Worker, FailedAttempt) for row in model.objects.values()[:5]
            ]
        error.add_note("\n".join(found))
        raise


def supervisor_of(manager: psutil.Process) -> psutil.Process | None:
    """The process of `manage.py qcluster`."""
    with contextlib.suppress(psutil.Error):
        for child in manager.children():
            if "qcluster" in child.cmdline():
                return child
    return None


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The processes that are not zombies."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def workers_of(supervisor: psutil.Process | None, *, alone: bool = False) -> list[psutil.Process]:
    """A supervisor's worker processes that have registered. `alone`: those of the tasks that run alone instead."""
    pids = {pid for pid, queue in Worker.objects.values_list("pid", "queue") if queue.endswith(":alone") == alone}
    with contextlib.suppress(psutil.Error):
        if supervisor is not None:
            return [child for child in living(supervisor.children()) if child.pid in pids]
    return []


def upkeep_of(supervisor: psutil.Process | None) -> list[psutil.Process]:
    """A supervisor's upkeep process: its oldest child that is not a worker."""
    pids = set(Worker.objects.values_list("pid", flat=True))
    with contextlib.suppress(psutil.Error):
        if supervisor is not None:
            return [child for child in living(supervisor.children()) if child.pid not in pids][:1]
    return []


def leftovers() -> list[psutil.Process]:
    """The living processes of this run's clusters, found by the data folder in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "qcluster" in process.cmdline() and process.environ().get("NOTIFIER_DATA_DIR") == str(FOLDER / "var"):
                found.append(process)
    return living(found)


# What is queued, and what came of it.


def enqueue(count: int, seconds: float = 0.0, *, first: int = 0) -> list[str]:
    """Enqueue marking tasks, numbered from `first`; return their ids."""
    return [async_task("tests.support.cluster_tasks.mark", number, seconds) for number in range(first, first + count)]


def marks() -> list[tuple[int, int]]:
    """(number, pid) of all runs of marking tasks."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT number, pid FROM mark")
        return list(cursor.fetchall())


def reset() -> None:
    """Empty all tables."""
    for model in (OrmQ, Task, FailedAttempt, DeadLetter):
        model.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM mark")


def drained() -> bool:
    """Whether the queue is empty."""
    return not OrmQ.objects.exists()


def assert_attempts_add_up() -> None:
    """Every attempt is on record."""
    recorded = Counter(FailedAttempt.objects.values_list("task_id", flat=True))
    for task in Task.objects.all():
        expected = recorded[task.id] + bool(task.success)
        assert task.attempt_count == expected, (task.id, task.attempt_count, expected)


def percentile(values: list[float], share: float) -> float:
    """A percentile by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
