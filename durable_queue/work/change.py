"""What one transaction is to do to the rows that a worker holds."""

from typing import NamedTuple

from durable_queue.store.leases import LeaseChange, Row, Settlement
from durable_queue.work.long_tasks import Named


class Change(NamedTuple):
    """What a transaction is to do."""

    settled: list[Settlement]
    returned: list[Row]
    kept: set[int]  # ids of the rows that the worker goes on holding
    named: Named | None  # the tasks that its row is to name from now on; None: as before
    came: LeaseChange  # what it has come to, once it is committed; filled before the COMMIT, whose answer may be lost

    @property
    def left(self) -> set[int]:
        """The ids of the rows that it holds no more."""
        return {settlement.row.id for settlement in self.settled} | {row.id for row in self.returned}
