"""Starts the children of a supervisor, and holds the pipes between it and them."""

import functools
import os
import signal
import uuid
from collections.abc import Callable

from django_q.conf import Conf

from durable_queue.cluster.child import Child
from durable_queue.conf import cluster_conf
from durable_queue.store.leases import alone_queue
from durable_queue.upkeep import upkeep
from durable_queue.upkeep.life import Life
from durable_queue.work import worker
from durable_queue.work.birth import Birth
from durable_queue.work.progress import Progress, progress_path


class Starter:
    """Starts workers and upkeep."""

    def __init__(self, supervisor: str, wakes: tuple[int, int], *, threads: int, run_once: bool) -> None:
        """`supervisor`: its UUID. `wakes`: the pipe that wakes it. `threads`: tasks that a worker runs at once.

        `run_once`: its workers end when nothing is due.
        """
        self.wakes = wakes
        self.orders = (-1, -1)  # to upkeep: a worker has died, or, once it is closed, that is all
        self.signs = Life()  # of upkeep
        self._supervisor = supervisor
        self._threads = threads
        self._run_once = run_once

    def start_worker(self, restarts: int, *, alone: bool = False) -> Child:
        """Start a worker; `alone`: one of those whose tasks run alone. `restarts`: how many workers were replaced so far.

        Raises OSError.
        """
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
        try:
            return Child(self._in_child(functools.partial(worker.main, birth, progress)), progress, is_alone=alone)
        except OSError:
            progress.remove()
            raise

    def start_upkeep(self) -> Child:
        """Start the upkeep process. Raises OSError."""
        for end in self.orders:
            if end >= 0:
                os.close(end)
        self.orders = (-1, -1)
        self.orders = os.pipe()
        os.set_blocking(self.orders[1], False)
        return Child(
            self._in_child(
                functools.partial(upkeep.main, self._supervisor, os.getpid(), self.orders[0], self.wakes[1], self.signs)
            )
        )

    def _in_child(self, main: Callable[[], None]) -> Callable[[], None]:
        """Run `main` in a child, with the supervisor's ends of its pipes closed."""

        def run() -> None:
            signal.set_wakeup_fd(-1)
            for end in (self.wakes[0], self.orders[1]):
                os.close(end)
            main()

        return run
