"""What `qinfo`, `qmonitor` and `qmemory` ask a broker for. django-q2's own methods know nothing of the tasks that run alone."""

from typing import Any

from django.db.models import QuerySet
from django_q.brokers.orm import ORM
from django_q.models import OrmQ
from django_q.signing import SignedPackage

from durable_queue.states import Present
from durable_queue.store import cluster_status
from durable_queue.store.leases import alone_queue, home_queue


class Counting(ORM):  # type: ignore[misc]
    """django-q2's ORM broker, as far as others count by it."""

    using: str  # the database's alias

    @property
    def queue(self) -> str:
        """The queue's name, which callers may change: `broker.list_key = …`."""
        return str(self.list_key)

    def _rows(self) -> QuerySet[OrmQ]:
        return OrmQ.objects.using(self.using).filter(key__in=(home_queue(self.queue), alone_queue(self.queue)))  # type: ignore[no-any-return]

    def queue_size(self) -> int:
        """How many tasks are due."""
        return self._rows().filter(lock__lte=Present()).count()

    def lock_size(self) -> int:
        """How many tasks are held, or due later."""
        return self._rows().filter(lock__gt=Present()).count()

    def purge_queue(self) -> Any:
        """Delete all tasks of the queue."""
        return self._rows().delete()

    # Through django_q.status.Stat.

    def get_stats(self, pattern: str) -> list[str]:
        """The running clusters, each as a signed `Stat`: from the workers' rows, so true for every process."""
        return [SignedPackage.dumps(stat, True) for stat in cluster_status.of_all(self)]

    def get_stat(self, key: str) -> str | None:
        """One cluster's status, by `Stat.get_key`; None when it doesn't run."""
        found = cluster_status.of_one(self, supervisor=key.rpartition(":")[2])
        return SignedPackage.dumps(found, True) if found else None
