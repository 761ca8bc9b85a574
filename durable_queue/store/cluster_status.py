"""The status of clusters, for django-q2's commands."""

from django_q.brokers.orm import ORM
from django_q.conf import Conf
from django_q.status import Stat, Status

from durable_queue.models import Worker


def status_of(broker: ORM, workers: list[Worker]) -> Stat:
    """A cluster as `qinfo`, `qmonitor` and `qmemory` show it: by the workers' rows, which every process can read."""
    status = Stat.__new__(Stat)  # its constructor asks the processes of django-q2's cluster, which don't run here
    Status.__init__(status, workers[0].supervisor_pid, workers[0].supervisor)
    status.broker = broker
    status.sentinel = workers[0].supervisor_pid
    status.host = workers[0].host.partition(" ")[0]
    status.tob = min(worker.started for worker in workers)
    status.timestamp = max(worker.heartbeat for worker in workers)
    status.workers = [worker.pid for worker in workers]
    status.reincarnations = max(worker.restarts for worker in workers)
    status.status = Conf.WORKING if any(worker.lease for worker in workers) else Conf.IDLE
    return status
