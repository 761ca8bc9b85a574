"""The upkeep process: it does a cluster's duties again and again.

It is a child of the supervisor, which therefore needs no database connection: no database can hold it up.
"""

import functools
import os
import select
import signal

from durable_queue.conf import cluster_conf
from durable_queue.store.broker import Broker
from durable_queue.store.sqlite.checkpoints import Checkpoints
from durable_queue.upkeep import alone, dead_workers, heartbeat, life, pruning
from durable_queue.upkeep.clock import Clock
from durable_queue.upkeep.ended import Ended
from durable_queue.upkeep.figures import Backlog
from durable_queue.upkeep.lane import Duty, Lane
from durable_queue.upkeep.life import Life
from durable_queue.upkeep.ownerless import Ownerless
from durable_queue.upkeep.paused import Paused
from durable_queue.upkeep.schedules import DueSchedules
from durable_queue.upkeep.unserved import Unserved
from durable_queue.work import kernel
from durable_queue.work.follow_ups import follow_up
from durable_queue.work.lost_workers import Observer

TICK = 0.5  # seconds between two signs that the process runs at all


class Upkeep:
    """The duties of one cluster."""

    def __init__(self, supervisor: str, supervisor_wakes: int, signs: Life) -> None:
        """`supervisor`: the UUID under which its workers are stored. `supervisor_wakes`: what wakes it, a descriptor."""
        broker = Broker(follow_up=follow_up)
        observer = Observer(has_heartbeat=True)
        lane = functools.partial(Lane, using=broker.using, life=signs)
        chores = [
            Duty("paused queue", Paused(broker).look),
            Duty("ended schedules", Ended(broker, signs).delete, can_wait=True),
            Duty("pruning", functools.partial(pruning.prune_all, broker.using), can_wait=True),
            Duty("unserved queues", Unserved(broker.using).look),
        ]
        if broker.table.has_one_writer:
            chores.insert(0, Duty("checkpoints", Checkpoints(broker.using).run_and_return_pause))
        self.rows = lane(
            [
                Duty("dead workers", functools.partial(dead_workers.free, broker, observer)),
                Duty("tasks that run alone", functools.partial(alone.tell_of_due, broker, supervisor_wakes)),
                Duty("ownerless rows", Ownerless(broker).free),
                Duty("clocks", Clock(broker).look),
            ]
        )
        self.lanes = [
            lane([Duty("heartbeat", functools.partial(heartbeat.beat, broker, supervisor, observer))]),
            self.rows,
            lane([Duty("schedules", DueSchedules(broker, signs).run)]),
            lane(chores),
        ]
        if cluster_conf.max_backlog:
            self.lanes.append(lane([Duty("figures", Backlog(broker, cluster_conf.max_backlog).publish)]))


def main(supervisor: str, supervisor_pid: int, orders: int, supervisor_wakes: int, signs: Life) -> None:
    """Do the duties until the supervisor closes `orders`, which is the last thing that it does."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    kernel.die_with_parent(supervisor_pid)
    signs.begin()
    life.watch_connections()
    upkeep = Upkeep(supervisor, supervisor_wakes, signs)
    for lane in upkeep.lanes:
        lane.start()
    while all(lane.is_alive() for lane in upkeep.lanes):
        signs.tick()
        ready, _, _ = select.select([orders], [], [], TICK)
        if ready:
            if not os.read(orders, 4096):
                upkeep.rows.end()
                os._exit(0)
            upkeep.rows.wake()  # a worker died
    os._exit(1)
