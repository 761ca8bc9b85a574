"""The queue table: put a task in, claim rows under a lease, settle what became of them, give back the rest.

A row's `lock` says when it is due, or, far in the future, which lease holds it. A lease is one worker's claim on some
rows; it needs no renewal and never runs out: it ends when its rows are settled or given back, or when somebody who has
seen the worker dead deletes the worker's row. Every statement that ends a lease names it, so that a worker which lost
its lease can change nothing any more.
"""

import functools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.conf import Conf, logger
from django_q.models import OrmQ, Task
from django_q.signing import SignedPackage
from django_q.status import Stat, Status
from django_q.tasks import async_chain, async_task

from notifications.cluster import cached, lookup, table, wakeup
from notifications.cluster.models import Attempt, DeadLetter, Worker
from notifications.cluster.turns import Turn

# Leases lie this far ahead, or farther; what is due later than that will not be.
LEASES = timedelta(days=365 * 1000)

NAME_LENGTH = Task._meta.get_field("name").max_length


class LeaseLostError(Exception):
    """Somebody took this worker for dead and freed its lease: it has to stop."""


class Row(NamedTuple):
    """A claimed row of the queue."""

    id: int
    due: datetime
    payload: str
    attempts: int = 0  # attempts before this one
    losses: int = 0  # those among them whose worker was lost


class Settlement(NamedTuple):
    """What became of a row: django-q2's task package with its result, and what follows."""

    row: Row
    task: dict[str, Any]
    attempt: Attempt | None = None  # what went wrong this time
    retry_at: datetime | None = None  # None: this was the end of it
    refused: bool = False  # it could not be run at all: keep the payload

    @property
    def saves_result(self) -> bool:
        """Whether the history keeps it (https://django-q2.readthedocs.io/en/master/tasks.html, `save`, `cached`)."""
        if self.task.get("cached"):
            return False
        return bool(not self.task["success"] or self.task.get("save", Conf.SAVE_LIMIT >= 0))

    def history(self) -> table.HistoryRow:
        """The history row."""
        task = self.task
        return table.HistoryRow(
            id=task["id"],
            name=task["name"],
            func=task["path"],
            hook=task.get("hook"),
            args=task["args"],
            kwargs=task["kwargs"],
            result=task["result"],
            group=task.get("group"),
            cluster=task.get("cluster"),
            started=task["started"],
            stopped=task["stopped"],
            success=task["success"],
            attempt_count=self.row.attempts + 1,
        )


@dataclass
class Lease:
    """The rows that a worker holds, by the moment that names the claim."""

    name: datetime | None = None
    rows: list[Row] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)  # those of the last exchange that counted

    @property
    def with_hook(self) -> list[Task]:
        """The history rows whose hook is to be called."""
        return [Task(*s.history()) for s in self.settled if s.task.get("hook") and s.retry_at is None and s.saves_result]


class Broker(ORM):  # type: ignore[misc]
    """django-q2's ORM broker, with leases. `Q_CLUSTER["broker_class"]` names it."""

    def __init__(self, list_key: str | None = None, using: str | None = None) -> None:
        """`using`: the database alias, when it isn't the configured one."""
        super().__init__(list_key)
        self.using: str = using or Conf.ORM or "default"

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        """The rows, for django-q2's own methods. Not by its way, which connects before anybody could wait for the database."""
        return OrmQ.objects.using(Conf.ORM or "default")

    @property
    def database(self) -> BaseDatabaseWrapper:
        """This thread's connection to the database."""
        return connections[self.using]

    @property
    def queue(self) -> str:
        """The queue's name, which callers may change: `broker.list_key = …`."""
        return str(self.list_key)

    # Called by those who queue.

    def enqueue(self, task: str) -> int:
        """Insert a signed package, due now, and return the row's id; in a transaction, it is committed with it."""
        return self.enqueue_all([task])

    def enqueue_all(self, tasks: Sequence[str]) -> int:
        """Insert signed packages, all or none, in this order; return the last row's id.

        Each can then be found by its task's id, save one that can't be read: it goes in as it is, for a worker to refuse.
        """
        tasks = [lookup.with_id_in_place(task) for task in tasks]
        connection = self.database
        if len(tasks) == 1 and connection.autocommit and not connection.in_atomic_block:
            return self._enqueue_announced(connection, tasks[0])
        with Turn(connection):
            row = table.insert(connection, self.queue, tasks, datetime.now(UTC))
        if connection.in_atomic_block:
            transaction.on_commit(lambda: wakeup.wake(self.queue), using=self.using)
        else:
            wakeup.wake(self.queue)
        return row

    def _enqueue_announced(self, connection: BaseDatabaseWrapper, task: str) -> int:
        """While this is committed a worker gets ready. Its claim waits: on PostgreSQL at the server, else for its turn."""
        at_server = connection.vendor == "postgresql"
        with Turn(connection) as is_ours:
            started = time.monotonic()
            if at_server:
                announce = functools.partial(wakeup.wake, self.queue)
                row = table.insert_announced(connection, self.queue, task, datetime.now(UTC), announce)
            else:
                due = datetime.now(UTC)  # before anybody can look for it
                if is_ours:
                    wakeup.wake(self.queue, announced=1)  # of no meaning but that it is to be waited for
                row = table.insert(connection, self.queue, [task], due)
        if not (at_server or is_ours) or time.monotonic() - started > table.PATIENCE / 2:
            wakeup.wake(self.queue)  # who heard of it may not have waited for so long
        return row

    # Called by workers.

    def wait_until_due(self) -> float | None:
        """Seconds until the next row is due, 0 when one is, None when none waits. Takes no lock."""
        due, now = table.next_due(self.database, self.queue), datetime.now(UTC)
        if due is None or due > now + LEASES / 2:
            return None
        return max(0.0, (due - now).total_seconds())

    def exchange(
        self,
        worker: Worker,
        settlements: Sequence[Settlement] = (),
        returned: Iterable[Row] = (),
        claim: int = 0,
        announced: Sequence[int] = (),
    ) -> Lease:
        """In ONE transaction: settle rows, give others back and, unless `claim` is 0, take new ones under a new lease.

        `announced`: the numbers of rows that are about to be committed (`wakeup.Ear.wait`); an idle worker waits for them.
        The worker's row carries the lease's name; after an error at COMMIT, `recover` finds out by it what happened.
        Raises LeaseLostError, or django.db.Error and then nothing (or, at a COMMIT, all) has happened.
        """
        connection = self.database
        if claim and worker.lease is None and not settlements and not connection.in_atomic_block:
            lease = self._claim_at_once(connection, worker, claim, announced)
            if lease or self.wait_until_due() != 0:
                return lease or Lease()
            # What is due is another's to claim, or this worker was taken for dead, or it didn't get its turn.
        lease = Lease(name=worker.lease)
        with Turn(connection), transaction.atomic(using=self.using):
            if not settlements and connection.vendor == "postgresql":
                # A claim need not be on the disk before it counts: after a crash of the server, its rows are due again, and
                # this worker finds its lease lost. The latency of a task is half without that wait.
                table.run(connection, "SET LOCAL synchronous_commit = off")
            if worker.lease is not None:
                self._settle(worker.lease, lease, settlements)
                for row in returned:
                    table.put_back(connection, lease=worker.lease, row=row.id, due=row.due)
            if claim:
                lease.name, lease.rows = self._claim(connection, worker, claim)
            due = lease.rows[0].due if lease.rows else worker.lease_due
            if not table.change_lease(connection, worker.pk, old=worker.lease, new=lease.name, due=due):
                raise LeaseLostError(str(worker))
        worker.lease, worker.lease_due = lease.name, due
        return lease

    def recover(self, worker: Worker) -> Lease | None:
        """After an exchange whose COMMIT may have got through: the lease that it made, or None when it did nothing.

        Raises LeaseLostError and django.db.Error.
        """
        stored = Worker.objects.using(self.using).filter(pk=worker.pk).first()
        if stored is None:
            raise LeaseLostError(str(worker))
        if stored.lease == worker.lease:
            return None
        worker.lease, worker.lease_due = stored.lease, stored.lease_due
        held = OrmQ.objects.using(self.using).filter(lock=stored.lease).values_list("id", "payload")
        # Not sorted by the database, which on this connection would read all rows by their ids instead (`queue_settings`).
        rows = [] if stored.lease is None else sorted(held)
        due = stored.lease_due or timezone.now()
        return Lease(name=stored.lease, rows=self._with_attempts([(row, due, payload) for row, payload in rows]))

    def _settle(self, name: datetime, lease: Lease, settlements: Sequence[Settlement]) -> None:
        """Write history for the rows that the lease of this name holds still, and take them out of the queue."""
        connection = self.database
        ended = [settlement.row.id for settlement in settlements if settlement.retry_at is None]
        still_held = table.delete(connection, lease=name, ids=ended)
        for settlement in settlements:
            row, due = settlement.row.id, settlement.retry_at
            if due and table.put_back(connection, lease=name, row=row, due=due):
                still_held.add(row)
        lease.settled = [settlement for settlement in settlements if settlement.row.id in still_held]
        table.save_history(connection, [s.history() for s in lease.settled if s.retry_at is None and s.saves_result])
        if failed := [s.attempt for s in lease.settled if s.attempt]:
            for attempt in failed:
                # An earlier try may have given it an id and been rolled back, and on SQLite the next one gets that id again.
                attempt.pk = None
            Attempt.objects.using(self.using).bulk_create(failed)
        self._lock_groups(lease.settled)
        for settlement in lease.settled:
            if settlement.refused:
                self._keep_dead_letter(settlement)
            if settlement.retry_at is None:
                self._follow_up(settlement)

    def _keep_dead_letter(self, settlement: Settlement) -> None:
        DeadLetter.objects.using(self.using).create(
            task_id=settlement.task["id"],
            queue=self.queue,
            payload=settlement.row.payload,
            reason=settlement.task["result"],
            at=settlement.task["stopped"],
        )

    def _lock_groups(self, settlements: Iterable[Settlement]) -> None:
        """Let one transaction at a time add to a group's cached results; on SQLite this one is the only one already."""
        groups = {str(s.task.get("group")) for s in settlements if s.retry_at is None and s.task.get("cached")}
        if self.database.vendor == "postgresql":
            for group in sorted(groups):  # the same order for all, so that no two wait for each other
                table.run(self.database, "SELECT pg_advisory_xact_lock(hashtext(%s))", [f"{self.queue}:{group}"])

    def _follow_up(self, settlement: Settlement) -> None:
        """Keep a cached result, and queue the next step of a chain: what django-q2's monitor does beside saving."""
        task = settlement.task
        if task.get("cached"):
            whole = self._keep_cached(task)
            if whole and not whole["cached"]:
                table.save_history(self.database, [settlement._replace(task=whole).history()])
        if task.get("chain") and task["success"]:
            # Unlike stock django-q2, which goes on after a failure, and once more for each retry. A copy, for it is
            # shortened, and this transaction may be rolled back and done again.
            chain = list(task["chain"])
            async_chain(chain, group=task.get("group"), cached=task.get("cached", False), sync=False, broker=self)

    def _keep_cached(self, task: dict[str, Any]) -> dict[str, Any] | None:
        """Keep a result in the cache; return the task that stands for all of an `Iter`, when this was the last of it.

        No database error of this transaction may come by in here, where it would be taken for the cache's.
        """
        cache, queue = self.cache, self.queue
        try:
            cached.keep(task, cache=cache, queue=queue)
            whole = cached.collate(task, cache=cache, queue=queue)
            if whole and whole["cached"]:
                cached.keep(whole, cache=cache, queue=queue)
        except Exception:  # the cache is down: as in django-q2, that costs the result
            logger.exception("The result of '%s' (%s) could not be cached", task["path"], task["name"])
            return None
        if whole:
            transaction.on_commit(lambda: cached.forget(task["group"], cache=cache, queue=queue), using=self.using, robust=True)
        return whole

    def _claim(self, connection: BaseDatabaseWrapper, worker: Worker, limit: int) -> tuple[datetime | None, list[Row]]:
        """Take the first due rows that nobody holds; return the new lease's name and the rows."""
        now = datetime.now(UTC)
        name = self._new_lease(worker, now)
        found = table.claim(connection, self.queue, table.Claim(limit, now, name))
        return (name, [Row(*row) for row in found]) if found else (None, [])

    def _claim_at_once(
        self, connection: BaseDatabaseWrapper, worker: Worker, limit: int, announced: Sequence[int]
    ) -> Lease | None:
        """The lease of a worker that held none; None when nothing is due, the worker's row is gone, or it isn't its turn."""
        now = datetime.now(UTC)
        name = self._new_lease(worker, now)
        with Turn(connection) as is_ours:
            if connection.vendor == "sqlite" and not is_ours:
                return None  # what was announced waits for SQLite's lock, maybe: not to wait for that as well
            found = table.claim_at_once(connection, worker, table.Claim(limit, now, name, announced))
        if not found:
            return None
        lease = Lease(name=name, rows=[Row(*row) for row in found])
        worker.lease, worker.lease_due = name, lease.rows[0].due
        return lease

    def _new_lease(self, worker: Worker, now: datetime) -> datetime:
        # No other worker's, unless they are a million births apart: its last three digits are those of the worker's id, and
        # a thousand days lie between one thousand of workers and the next. And later than the lease that it follows, whatever
        # the clock does.
        thousands, ones = divmod(worker.id % 1_000_000, 1000)
        name = now + LEASES + timedelta(days=1000 * thousands)
        name = name.replace(microsecond=name.microsecond // 1000 * 1000 + ones)
        return name if worker.lease is None else max(name, worker.lease + timedelta(milliseconds=1))

    def _with_attempts(self, found: list[tuple[int, datetime, str]]) -> list[Row]:
        return [Row(*row) for row in table.count_attempts(self.database, found)]

    # Called by those who have seen a worker dead.

    def free(self, worker: Worker, settlement: Settlement | None = None) -> bool:
        """End a dead worker's lease: settle the row it had in hand, give back the others at their old place.

        Returns whether this call did it; of several, one does. Raises django.db.Error.
        """
        with transaction.atomic(using=self.using):
            if not Worker.objects.using(self.using).filter(pk=worker.pk, lease=worker.lease).delete()[0]:
                return False
            if worker.lease is not None:
                if settlement:
                    self._settle_lost(worker, settlement)
                # All at the first one's due time: nothing else is due before them, and ids keep their order.
                held = OrmQ.objects.using(self.using).filter(lock=worker.lease)
                held.update(lock=worker.lease_due or timezone.now())
        wakeup.wake(worker.queue)
        return True

    def _settle_lost(self, worker: Worker, settlement: Settlement) -> None:
        lease = Lease(name=worker.lease)
        assert worker.lease is not None  # noqa: S101
        self._settle(worker.lease, lease, [settlement])
        for task in lease.with_hook:
            # As a task: a hook may hang, and whoever frees a lease must not.
            name, hook = f"hook of {task.name}"[:NAME_LENGTH], "notifications.cluster.history.call_hook_of"
            async_task(hook, task.id, task_name=name, save=False, broker=Broker(worker.queue, self.using))

    def row_in_hand(self, worker: Worker, row_id: int) -> Row | None:
        """The row that a dead worker had in hand, if its lease holds it still."""
        if worker.lease is None:
            return None
        found = OrmQ.objects.using(self.using).filter(pk=row_id, lock=worker.lease).first()
        if found is None:
            return None
        return self._with_attempts([(found.pk, worker.lease_due or timezone.now(), found.payload)])[0]

    # Called by `qinfo`, `qmonitor` and `qmemory`, through django_q.status.Stat.

    def get_stats(self, pattern: str) -> list[str]:
        """The running clusters, each as a signed `Stat`: from the workers' rows, so true for every process."""
        clusters: dict[Any, list[Worker]] = {}
        for worker in Worker.objects.using(self.using).order_by("started"):
            clusters.setdefault(worker.supervisor, []).append(worker)
        return [SignedPackage.dumps(self._status(workers), True) for workers in clusters.values()]

    def get_stat(self, key: str) -> str | None:
        """One cluster's status, by `Stat.get_key`; None when it doesn't run."""
        supervisor = key.rpartition(":")[2]
        workers = list(Worker.objects.using(self.using).filter(supervisor=supervisor).order_by("started"))
        return SignedPackage.dumps(self._status(workers), True) if workers else None

    def _status(self, workers: list[Worker]) -> Stat:
        status = Stat.__new__(Stat)  # its own constructor asks the processes of django-q2's cluster
        Status.__init__(status, workers[0].supervisor_pid, workers[0].supervisor)
        status.broker = self
        status.sentinel = workers[0].supervisor_pid
        status.host = workers[0].host.partition(" ")[0]
        status.tob = min(worker.started for worker in workers)
        status.timestamp = max(worker.heartbeat for worker in workers)
        status.workers = [worker.pid for worker in workers]
        status.reincarnations = max(worker.restarts for worker in workers)
        status.status = Conf.WORKING if any(worker.lease for worker in workers) else Conf.IDLE
        return status
