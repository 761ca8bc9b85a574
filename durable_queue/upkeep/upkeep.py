"""The upkeep process: it does a cluster's duties again and again.

It is a child of the supervisor, which therefore needs no database connection: no database can hold it up.
"""

import functools
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.db import Error as DatabaseError
from django.db import connections
from django_q.conf import logger

from durable_queue.store.broker import Broker
from durable_queue.store.sqlite.checkpoints import Checkpoints
from durable_queue.upkeep import alone, heartbeat, pruning, schedules
from durable_queue.upkeep.clock import Clock
from durable_queue.upkeep.ownerless import Ownerless
from durable_queue.work import kernel
from durable_queue.work.follow_ups import follow_up
from durable_queue.work.lost_workers import Observer

AFTER_DATABASE_ERROR, AFTER_ERROR = 1.0, 5.0  # seconds until a duty that failed is tried again


@dataclass
class Duty:
    """One duty, and when it is done next."""

    do: Callable[[], float]  # returns the seconds until it is done again
    at: float = 0.0  # monotonic


class Upkeep:
    """The duties of one cluster."""

    def __init__(self, broker: Broker, supervisor: str, supervisor_wakes: int) -> None:
        """`supervisor`: the UUID under which its workers are stored. `supervisor_wakes`: what wakes it, a descriptor."""
        self.broker = broker
        self.heartbeat = Duty(functools.partial(heartbeat.beat, broker, supervisor, Observer()))
        self.duties = [
            self.heartbeat,
            Duty(functools.partial(alone.tell_of_due, broker, supervisor_wakes)),
            Duty(Ownerless(broker).free),
            Duty(Clock(broker).look),
            Duty(functools.partial(schedules.queue_due, broker)),
            Duty(functools.partial(pruning.prune_all, broker.using)),
        ]
        if broker.table.has_one_writer:
            self.duties.append(Duty(Checkpoints(broker.using).run_and_return_pause))

    def step(self) -> float:
        """Do the duties that are due; return the seconds until the next one is. Logs errors, and never raises."""
        for duty in self.duties:
            if duty.at <= time.monotonic():
                try:
                    pause = duty.do()
                except DatabaseError as error:
                    logger.warning("Upkeep waits for the database: %s", str(error).strip())
                    connections[self.broker.using].close()
                    pause = AFTER_DATABASE_ERROR
                except Exception:
                    logger.exception("Upkeep failed, and goes on")
                    pause = AFTER_ERROR
                duty.at = time.monotonic() + pause
        return max(0.0, min(duty.at for duty in self.duties) - time.monotonic())


def main(supervisor: str, supervisor_pid: int, orders: int, supervisor_wakes: int) -> None:
    """Do the duties until the supervisor closes `orders`, which is the last thing that it does."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    kernel.die_with_parent(supervisor_pid)
    upkeep = Upkeep(Broker(follow_up=follow_up), supervisor, supervisor_wakes)
    pause = 0.0
    while True:
        ready, _, _ = select.select([orders], [], [], pause)
        if ready:
            order = os.read(orders, 4096)
            upkeep.heartbeat.at = 0.0  # a worker died
            if not order:
                break
        pause = upkeep.step()
    upkeep.step()
    os._exit(0)
