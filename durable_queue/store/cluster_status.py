"""The status of clusters, for django-q2's commands."""

from typing import TYPE_CHECKING, Any

from django.utils import timezone
from django_q.conf import Conf
from django_q.status import Stat, Status

from durable_queue.models import Worker

if TYPE_CHECKING:
    from durable_queue.store.broker import Broker


def of_all(broker: "Broker") -> list[Stat]:
    """All that run."""
    clusters: dict[Any, list[Worker]] = {}
    for worker in Worker.objects.using(broker.using).order_by("started"):
        clusters.setdefault(worker.supervisor, []).append(worker)
    return [_status_of(broker, workers) for workers in clusters.values()]


def of_one(broker: "Broker", *, supervisor: str) -> Stat | None:
    """The one of this supervisor (its UUID), if it runs."""
    workers = list(Worker.objects.using(broker.using).filter(supervisor=supervisor).order_by("started"))
    return _status_of(broker, workers) if workers else None


def _status_of(broker: "Broker", workers: list[Worker]) -> Stat:
    """A cluster as `qinfo`, `qmonitor` and `qmemory` show it: by the workers' rows, which every process can read."""
    status = Stat.__new__(Stat)  # its constructor asks the processes of django-q2's cluster, which don't run here
    Status.__init__(status, workers[0].supervisor_pid, workers[0].supervisor)
    status.broker = broker
    status.sentinel = workers[0].supervisor_pid
    status.host = workers[0].host.partition(" ")[0]
    status.tob = min(timezone.now(), *(worker.started for worker in workers))  # the clock may have been set back
    status.timestamp = max(worker.heartbeat for worker in workers)
    status.workers = [worker.pid for worker in workers]
    status.reincarnations = max(worker.restarts for worker in workers)
    status.status = Conf.WORKING if any(worker.lease for worker in workers) else Conf.IDLE
    return status
