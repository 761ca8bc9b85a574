"""The queue table: put a task in, claim rows under a lease, settle what became of them, give back the rest.

A row's `lock` says since when it is for now, or when it is due, or which lease holds it (`durable_queue.states`). A lease is
one worker's claim on some rows; it needs no renewal and never runs out: it ends when its rows are settled or given back, or
when a process that has seen the worker dead deletes the worker's row. Every statement that ends a lease names it, so that a
worker which lost its lease can change nothing any more.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ

from durable_queue.models import Worker
from durable_queue.states import for_now
from durable_queue.store import cancelling, lookup, wakeup
from durable_queue.store.counting import Counting
from durable_queue.store.databases import table_of
from durable_queue.store.keys import Request, Stored
from durable_queue.store.leases import LeaseChange, LeaseLostError, Row, Settlement, alone_queue, home_queue, new_name
from durable_queue.store.queues import warn_if_unknown
from durable_queue.store.rows import Claim
from durable_queue.store.settling import settle
from durable_queue.store.table import Table

# Does, in the transaction that settles them, what comes after tasks that have ended.
FollowUp = Callable[["Broker", Sequence[Settlement]], None]


class Broker(Counting):
    """django-q2's ORM broker, with leases. `Q_CLUSTER["broker_class"]` names it."""

    def __init__(self, list_key: str | None = None, using: str | None = None, *, follow_up: FollowUp | None = None) -> None:
        """`using`: the database alias, when it isn't the configured one. `follow_up`: called in the settling transaction."""
        super().__init__(list_key)
        self.using: str = using or Conf.ORM or "default"
        self.follow_up = follow_up

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        """The rows, for django-q2's own methods. django-q2 itself would connect here, when nothing could wait for that."""
        return OrmQ.objects.using(Conf.ORM or "default")

    @property
    def database(self) -> BaseDatabaseWrapper:
        """This thread's connection to the database."""
        return connections[self.using]

    @property
    def table(self) -> Table:
        """The queue over that connection."""
        return table_of(self.database)

    def home(self) -> "Broker":
        """The broker of the queue that tasks are enqueued in, whether they run alone or not."""
        return Broker(home_queue(self.queue), self.using)

    def is_alone_due(self) -> bool:
        """Whether a task of this queue that runs alone is due. Raises django.db.Error."""
        return Broker(alone_queue(self.queue), self.using).wait_until_due() == 0.0

    # Called by processes that enqueue.

    def enqueue(self, task: str) -> int:
        """Insert a signed payload, due now, and return the row's id; in a transaction, it is committed with it."""
        return self.enqueue_all([task])

    def enqueue_all(self, tasks: Sequence[str], *, as_they_are: bool = False, due: datetime | None = None) -> int:
        """Insert signed payloads, all or none, in this order; return the last row's id.

        `due`: when they are due, if not now, by the clock that all hosts share; one that has come gives them their place.

        Each can then be found by its task's id, save one that can't be read: it goes in as it is, for a worker to refuse.
        `as_they_are`: none is unpickled to see to that. Raises django.db.Error, and BadIdError for a task whose id is none;
        then nothing is enqueued.
        """
        tasks = tasks if as_they_are else [lookup.with_id_in_place(task) for task in tasks]
        warn_if_unknown(self.queue)
        connection, table = self.database, self.table
        if len(tasks) == 1 and due is None and connection.autocommit and not connection.in_atomic_block:
            return table.insert_announced(self.queue, tasks[0])
        with table.turn():
            row = table.insert(self.queue, tasks, due)
        self._wake_after_commit()
        return row

    def enqueue_requests(self, requests: Sequence[Request]) -> list[Stored | None]:
        """Insert the tasks of requests in one transaction, save those whose key stands already: see `Table.insert_requests`.

        Raises django.db.Error, and BadIdError for a task whose id is none; then nothing is enqueued, and no key is kept.
        """
        warn_if_unknown(self.queue)
        table, found = self.table, []
        for request in requests:
            rows = [row._replace(payload=lookup.with_id_in_place(row.payload)) for row in request.rows]
            found.append(request._replace(rows=rows))
        with table.turn():
            stored = table.insert_requests(self.queue, found)
        self._wake_after_commit()
        return stored

    def _wake_after_commit(self) -> None:
        if self.database.in_atomic_block:
            transaction.on_commit(lambda: wakeup.wake(self.queue), using=self.using)
        else:
            wakeup.wake(self.queue)

    # Called by workers.

    def wait_until_due(self) -> float | None:
        """Seconds until the next row is due: 0 when one is, infinite while its queue is paused; None when none waits.

        Takes no lock.
        """
        return self.table.until_due(self.queue)

    def is_paused(self) -> bool:
        """Whether the queue is paused (`durable_queue.store.pausing`). Takes no lock. Raises django.db.Error."""
        return self.table.is_paused(self.queue)

    def fair_share(self, most: int) -> int:
        """How many of the rows that are due or held a worker has if all have as many; at most `most`. Takes no lock."""
        return self.table.fair_share(self.queue, most)

    def settle_and_claim(  # noqa: PLR0913 - it is one transaction
        self,
        worker: Worker,
        settlements: Sequence[Settlement] = (),
        returned: Iterable[Row] = (),
        claim: int = 0,
        announced: Sequence[int] = (),
        *,
        keep: bool = False,
        named: Mapping[str, Any] | None = None,
    ) -> LeaseChange:
        """In ONE transaction: settle rows, give others back and, unless `claim` is 0, take new ones.

        `keep`: whether the worker goes on holding other rows. Then the new ones come under the same lease, else under a new
        one; where there are none, it has no lease any more. `announced`: the numbers of rows that are about to be committed
        (`wakeup.Ear.wait`); a worker that only claims waits for them. `named`: what the worker's row is to say of tasks that
        take long (`Worker.in_hand`), if not what it says. The worker's row has the lease's name; after an error
        at COMMIT, `recover` finds out what happened. Raises LeaseLostError, or django.db.Error and then nothing (or, at a
        COMMIT, all) has happened.
        """
        table = self.table
        returned = list(returned)
        is_free_to_claim = (keep or worker.lease is None) and not (settlements or returned) and named is None
        if claim and is_free_to_claim and not self.database.in_atomic_block:
            lease = self._claim_at_once(table, worker, claim, announced)
            if lease or self.wait_until_due() != 0:
                return lease or LeaseChange(name=worker.lease)
            # What is due is another's to claim, or this worker was taken for dead, or it didn't get its turn.
        lease = LeaseChange(name=worker.lease)
        with table.turn(), transaction.atomic(using=self.using):
            if not (settlements or returned):
                # After a crash of the server, the rows of a claim are due again. (Rows that were given back would be held
                # again, and no worker would know of them.)
                table.let_commit_be_lost()
            if worker.lease is not None:
                settle(self, worker.lease, lease, settlements)
                for row in returned:
                    queue = alone_queue(self.queue) if row.runs_alone else None
                    table.put_back(lease=worker.lease, row=row.id, lock=for_now(row.due), queue=queue)
                if returned:
                    lease.settled += cancelling.end_unrun(self, returned)
            lease.name = worker.lease if keep else None
            if claim:
                lease.name, lease.rows = self._claim(table, worker, claim, lease.name)
            due = lease.rows[0].due if lease.rows else worker.lease_due
            if not table.change_lease(worker.pk, old=worker.lease, new=lease.name, due=due, named=named):
                raise LeaseLostError(str(worker))
        worker.lease, worker.lease_due = lease.name, due
        if any(row.runs_alone for row in returned):
            wakeup.wake(alone_queue(self.queue))
        return lease

    def recover(self, worker: Worker, left: Collection[int] = (), kept: Collection[int] = ()) -> LeaseChange | None:
        """After a `settle_and_claim` whose COMMIT may have got through: what it did to the lease, or None when it did nothing.

        `left`: the ids of the rows that it was to settle or give back. `kept`: those of the others that the worker held.
        Raises LeaseLostError and django.db.Error.
        """
        stored = Worker.objects.using(self.using).filter(pk=worker.pk).first()
        if stored is None:
            raise LeaseLostError(str(worker))
        held = OrmQ.objects.using(self.using).filter(key=stored.queue, lock=stored.lease).values_list("id", "payload")
        # Not sorted by the database, which on this connection would read all rows by their ids instead (`Table.own_settings`).
        rows = [] if stored.lease is None else sorted(held)
        if stored.lease == worker.lease:
            if any(row in left for row, _ in rows):
                return None
            rows = [(row, payload) for row, payload in rows if row not in kept]
            if not rows and not left:
                return None
        worker.lease, worker.lease_due = stored.lease, stored.lease_due
        due = stored.lease_due or timezone.now()
        return LeaseChange(name=stored.lease, rows=self.with_attempts([(row, due, payload) for row, payload in rows]))

    def _claim(self, table: Table, worker: Worker, limit: int, kept: datetime | None) -> tuple[datetime | None, list[Row]]:
        """Take the first due rows that no worker holds, under the kept lease or a new one; return its name and the rows."""
        now = datetime.now(UTC)
        name = kept or new_name(worker, now)
        found = table.claim(self.queue, Claim(limit, now, name))
        return (name, [Row(*row) for row in found]) if found else (kept, [])

    def _claim_at_once(self, table: Table, worker: Worker, limit: int, announced: Sequence[int]) -> LeaseChange | None:
        """The claim alone; None when nothing is due, the worker's row is gone, or it isn't its turn."""
        now = datetime.now(UTC)
        name = worker.lease or new_name(worker, now)
        found = table.claim_at_once(worker, Claim(limit, now, name, announced))
        if not found:
            return None
        lease = LeaseChange(name=name, rows=[Row(*row) for row in found])
        worker.lease, worker.lease_due = name, lease.rows[0].due
        return lease

    def with_attempts(self, found: list[tuple[int, datetime, str]]) -> list[Row]:
        """Held rows, each given by its id, when it was due, and its payload, with the attempts at it so far."""
        return [Row(*row) for row in self.table.count_attempts(found)]
