"""A snapshot that stays open while tasks run: a scenario of `scripts/chaos`, on PostgreSQL.

As `pg_dump` does, or a session that is idle in a transaction: whatever was deleted since its begin stays in the table and in
its indexes, where each claim comes by.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from django.db import connections
from django.utils import timezone
from django_q.models import OrmQ, Success

from durable_queue.models import Worker
from durable_queue.store.broker import Broker
from durable_queue.work import kernel
from tests.support import environment
from tests.support.chaos_cluster import managed_cluster, percentile
from tests.support.chaos_threads import enqueue_all
from tests.support.processes import wait_until
from tests.support.queue_rows import worker

RATE = 300  # tasks a second
TIMES_AS_LONG = 3.0  # a claim, meanwhile
HEALS = 60.0  # seconds from its end until claims are as before
LEAST = 0.002  # seconds: what a claim may take in any case
BACKLOG = 2.0  # seconds of tasks that may wait
SILENT = 6.0  # seconds without a heartbeat


@dataclass
class Load:
    """Tasks at an even rate, and what is seen of the queue meanwhile."""

    fed: int = 0
    waiting: int = 0  # rows that waited, at most
    silent: float = 0.0  # the oldest heartbeat, in seconds
    claims: list[tuple[float, float]] = field(default_factory=list)  # when (monotonic), and how many seconds it took
    is_over: threading.Event = field(default_factory=threading.Event)
    failed: list[BaseException] = field(default_factory=list)

    def feed(self) -> None:
        """Queue tasks, in batches of a tenth of a second."""
        began = time.monotonic()
        while not self.is_over.wait(max(0.0, began + self.fed / RATE - time.monotonic())):
            enqueue_all([("tests.support.cluster_tasks.take_one", (self.fed,))] * (RATE // 10))
            self.fed += RATE // 10

    def probe(self) -> None:
        """Claim a row as a worker does, ten times a second, and give it back."""
        broker = Broker()
        me = worker("probe", host=kernel.host_id(), pid=os.getpid())
        Worker.objects.filter(pk=me.pk).update(born=kernel.born(os.getpid()))
        while not self.is_over.wait(0.1):
            began = time.perf_counter()
            change = broker.settle_and_claim(me, claim=1)
            self.claims.append((time.monotonic(), time.perf_counter() - began))
            if change.rows:
                broker.settle_and_claim(me, returned=change.rows)
            others = Worker.objects.exclude(pk=me.pk)
            ages = [(timezone.now() - heartbeat).total_seconds() for heartbeat in others.values_list("heartbeat", flat=True)]
            self.silent = max(self.silent, *ages)
            self.waiting = max(self.waiting, OrmQ.objects.count())
        me.delete()

    def p95(self, since: float, until: float) -> float:
        """Of the seconds that a claim took, from one moment to another."""
        return percentile([took for moment, took in self.claims if since <= moment < until], 0.95)

    @contextmanager
    def running(self) -> Iterator[None]:
        """All of it, in threads. Raises what it has raised."""
        threads = [threading.Thread(target=self._run, args=(work,), daemon=True) for work in (self.feed, self.probe)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.is_over.set()
            for thread in threads:
                thread.join(20)
        if self.failed:
            raise self.failed[0]

    def _run(self, work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            self.failed.append(error)
        finally:
            connections.close_all()


def snapshot(quick: bool) -> str:
    """A snapshot is held open while 300 tasks a second run: claims stay quick, heartbeats come, and its end mends the rest."""
    before, held, after = (10, 30, 20) if quick else (60, 600, HEALS)
    load = Load()
    with managed_cluster():
        with load.running():
            time.sleep(3)  # until all processes know their statements
            began = time.monotonic()
            time.sleep(before)
            with psycopg.connect(os.environ["DATABASE_URL"]) as session:
                session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                session.execute("SELECT count(*) FROM django_q_ormq")
                opened = time.monotonic()
                time.sleep(held)
                ended = time.monotonic()
            time.sleep(after)
        wait_until(lambda: Success.objects.count() == load.fed, timeout=30, what="all is done")
    usual = load.p95(began, opened)
    meanwhile, at_its_end = load.p95(opened, ended), load.p95(ended - min(30.0, held / 2), ended)
    healed = load.p95(ended + after - 10, ended + after)
    figures = (
        f"{load.fed} tasks at {RATE} a second, a snapshot open for {held} s on {environment.DATABASE}: p95 of a claim "
        f"{usual * 1000:.1f} ms before, {meanwhile * 1000:.1f} meanwhile, {at_its_end * 1000:.1f} at its end, "
        f"{healed * 1000:.1f} after {after:.0f} s; {load.waiting} rows waited at most, oldest heartbeat {load.silent:.1f} s"
    )
    allowed = TIMES_AS_LONG * max(usual, LEAST)
    assert load.waiting < BACKLOG * RATE, figures
    assert load.silent < SILENT, figures
    assert max(meanwhile, at_its_end) <= allowed, figures
    assert healed <= allowed, figures
    return figures
