"""While a cluster stops, its upkeep goes on: without heartbeats, other hosts would take its workers for dead."""

import os
import signal

import psutil
import pytest
from django_q.models import OrmQ, Success
from django_q.tasks import async_task

from durable_queue.models import FailedAttempt, Worker
from durable_queue.states import held
from tests.support import selection
from tests.support.clusters import Cluster, all_end
from tests.support.processes import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@selection.slow_on_postgresql
@pytest.mark.parametrize("number", selection.slow_after(1, [signal.SIGKILL, signal.SIGSTOP]))
def test_upkeep__that_dies_during_a_stop_is_replaced(cluster: Cluster, number: signal.Signals) -> None:
    with cluster(grace=60) as output:
        async_task("time.sleep", 6)
        wait_until(lambda: OrmQ.objects.filter(held()).exists(), what="it is in hand")
        me = Worker.objects.get()
        os.kill(me.supervisor_pid, signal.SIGTERM)
        supervisor = psutil.Process(me.supervisor_pid)
        (upkeep,) = (child for child in supervisor.children() if child.pid != me.pid)
        upkeep.send_signal(number)
        wait_until(lambda: "The upkeep process died" in output.read_text(), what="its death is noticed")
        last = Worker.objects.get().heartbeat
        wait_until(lambda: [worker.heartbeat for worker in Worker.objects.all()] not in ([last], []), what="another one beats")
        all_end()
        wait_until(lambda: supervisor.status() == psutil.STATUS_ZOMBIE, what="the cluster has ended")
    assert Success.objects.count() == 1
    assert not FailedAttempt.objects.exists()
