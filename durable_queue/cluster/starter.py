"""Starts the children of a supervisor, and holds the pipes between it and them."""

import multiprocessing
import os
import signal
import uuid
from collections.abc import Callable
from typing import Any

from django_q.conf import Conf

from durable_queue.cluster.child import Child
from durable_queue.conf import cluster_conf
from durable_queue.store.leases import alone_queue
from durable_queue.upkeep import upkeep
from durable_queue.work import worker
from durable_queue.work.birth import Birth
from durable_queue.work.progress import Progress, progress_path

_fork = multiprocessing.get_context("fork")


class Starter:
    """Starts workers and upkeep."""

    def __init__(self, supervisor: str, *, threads: int, run_once: bool) -> None:
        """`supervisor`: its UUID. `threads`: tasks that a worker runs at once. `run_once`: they end when nothing is due."""
        self.wakes = os.pipe()  # wakes the supervisor: children and signals write to it
        self.orders = (-1, -1)  # to upkeep: a worker has died, or, once it is closed, that is all
        self._supervisor = supervisor
        self._threads = threads
        self._run_once = run_once
        for end in self.wakes:
            os.set_blocking(end, False)

    def start_worker(self, restarts: int, *, alone: bool = False) -> Child:
        """Start a worker; `alone`: one of those whose tasks run alone. `restarts`: how many workers were replaced so far."""
        threads = 1 if alone else self._threads
        birth = Birth(
            name=uuid.uuid4().hex,
            queue=alone_queue(Conf.CLUSTER_NAME) if alone else Conf.CLUSTER_NAME,
            supervisor=self._supervisor,
            supervisor_pid=os.getpid(),
            supervisor_wakes=self.wakes[1],
            restarts=restarts,
            threads=threads,
            run_once=self._run_once,
            alone=alone,
        )
        progress = Progress(progress_path(birth.name), threads if threads == 1 else threads + cluster_conf.coroutines)
        process = _fork.Process(target=self._in_child(worker.main), args=(birth, progress))
        return Child(process, progress, is_alone=alone)

    def start_upkeep(self) -> Child:
        """Start the upkeep process."""
        for end in self.orders:
            if end >= 0:
                os.close(end)
        self.orders = os.pipe()
        os.set_blocking(self.orders[1], False)
        args = (self._supervisor, os.getpid(), self.orders[0], self.wakes[1])
        return Child(_fork.Process(target=self._in_child(upkeep.main), args=args))

    def _in_child(self, main: Callable[..., None]) -> Callable[..., None]:
        """Run `main` in a child, with the supervisor's ends of its pipes closed."""

        def run(*args: Any) -> None:
            signal.set_wakeup_fd(-1)
            for end in (self.wakes[0], self.orders[1]):
                os.close(end)
            main(*args)

        return run
