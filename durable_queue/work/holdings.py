"""The rows that a worker holds, and the transactions that settle them and claim others. Any of its threads may ask."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

from django.db import Error as DatabaseError
from django_q.conf import logger

from durable_queue.models import Worker
from durable_queue.store import queue_connection
from durable_queue.store.broker import Broker
from durable_queue.store.leases import LeaseChange, LeaseLostError, Row, Settlement
from durable_queue.store.notes import keep_notes
from durable_queue.work import outcomes
from durable_queue.work.announcements import is_heard
from durable_queue.work.change import Change
from durable_queue.work.long_tasks import LongTasks
from durable_queue.work.notes import Notes
from durable_queue.work.slot import Slot

DATABASE_PAUSE = (0.1, 2.0)  # first and longest pause (seconds) after a database error


class Holdings:
    """The rows under a worker's lease: not started, in hand, finished, or on their way back."""

    def __init__(self, broker: Broker, me: Worker, notes: Notes) -> None:
        """`me`: the worker's row, stored."""
        self.broker = broker
        self.me = me
        self.in_hand: set[int] = set()  # ids of rows
        self._slots: dict[int, Slot] = {}  # by the ids of rows that have finished
        self.unstarted: deque[Row] = deque()
        self.finished: list[Settlement] = []
        self.oldest_finish = 0.0  # when (monotonic) the first of the finished ones finished, or a moment before
        self.claiming = 0.0  # the moment (monotonic) before the last claim
        self.claimed = 0.0  # the moment after it
        self._unsure: Change | None = None  # what was asked of the database, while it is not known whether that was committed
        self._returning: list[Row] = []  # given back, but the database may not know it yet
        self.long_tasks = LongTasks()
        self.announcing = 0  # how many of the settled ones are being announced
        self._unannounced: deque[Settlement] = deque()
        self._notes = notes
        self._noted: list[tuple[str, str]] = []  # read, and not in the database yet
        self._lock = threading.Lock()  # held for moments only, while rows change from one state to the next
        self._error_pause = DATABASE_PAUSE[0]

    # Between two transactions.

    def take(self) -> Row | None:
        """The next row to run; it is in hand from now on."""
        with self._lock:
            if not self.unstarted:
                return None
            row = self.unstarted.popleft()
            self.in_hand.add(row.id)
            return row

    def finish(self, settlement: Settlement, slot: Slot) -> None:
        """A row in hand, in that slot, has come to something."""
        self._slots[settlement.row.id] = slot
        if not self.finished:
            self.oldest_finish = time.monotonic()
        self.finished.append(settlement)
        self.in_hand.discard(settlement.row.id)

    def run_alone(self, row: Row) -> None:
        """Give a row in hand to those that run alone."""
        self._returning.append(row._replace(runs_alone=True))
        self.in_hand.discard(row.id)

    def return_unstarted(self, *, keep: int = 0) -> int:
        """Have the next transaction give back what was not started, save for the first few; return how many rows that are."""
        with self._lock:
            returned = list(self.unstarted)[keep:]
            for _ in returned:
                self.unstarted.pop()
            self._returning += returned
        return len(returned)

    @property
    def has_news(self) -> bool:
        """Whether the database has to be told something."""
        return bool(self.finished or self._returning or self._unsure)

    @property
    def has_alone(self) -> bool:
        """Whether it has rows to be run alone, elsewhere."""
        return any(row.runs_alone for row in self._returning)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in hand, and nothing waits for it."""
        return not (self.in_hand or self.unstarted or self.has_news or self._unannounced or self.announcing)

    def next_unannounced(self) -> Settlement | None:
        """What was settled, and is to be announced now; `end_announcement` follows."""
        if not self._unannounced:
            return None
        with self._lock:
            self.announcing += 1
            return self._unannounced.popleft()

    def end_announcement(self) -> None:
        """It has been announced."""
        with self._lock:
            self.announcing -= 1

    # Transactions.

    def settle_and_claim(
        self, claim: int = 0, announced: Sequence[int] = (), *, patient: bool = True, names_tasks: bool = False
    ) -> LeaseChange | None:
        """Settle and give back what is to be, and claim; None when the database could not be reached or failed.

        `patient`: after an error, wait for a while before this returns. `names_tasks`: have the worker's row name the tasks
        that take long. Raises LeaseLostError.
        """
        with queue_connection.lock():
            try:
                change = self._recover() if self._unsure else None
                if change is None:
                    change = self._change_lease(claim, announced, names_tasks=names_tasks)
            except LeaseLostError:
                raise
            except BaseException as error:  # a task's argument calls sys.exit when it is pickled …
                failure = self._settle_one_by_one(error) if outcomes.is_unstorable(error) else error
                if failure:
                    queue_connection.close()
            else:
                self._apply(change)
                self.keep_notes()
                return change
        if failure and patient:
            self._wait_out(failure)
        return None

    def _change_lease(self, claim: int, announced: Sequence[int], *, names_tasks: bool = False) -> LeaseChange:
        with self._lock:
            kept = self.in_hand | {row.id for row in self.unstarted}
            asked = Change(list(self.finished), list(self._returning), kept, None, LeaseChange())
            kept -= asked.left  # a thread that finishes a row at this moment has not taken it from those in hand yet
            if names_tasks or (self.long_tasks.are_named and asked.left):
                asked = asked._replace(named=self.long_tasks.to_store(kept))
            self._unsure = asked  # until we have heard that it was committed
        if claim:
            self.claiming = time.monotonic()
        named = asked.named.tasks if asked.named else None
        return self.broker.settle_and_claim(
            self.me, asked.settled, asked.returned, claim, announced, keep=bool(kept), named=named, lease=asked.came
        )

    def _apply(self, change: LeaseChange) -> None:
        """It was committed."""
        self._error_pause = DATABASE_PAUSE[0]
        with self._lock:
            if self._unsure:
                del self.finished[: len(self._unsure.settled)]
                self._forget(self._unsure.settled)
                del self._returning[: len(self._unsure.returned)]
                if self._unsure.named is not None:
                    self.long_tasks.note_stored(self._unsure.named)
            self._unsure = None
            self.oldest_finish = time.monotonic()
            # A crash of the server can undo a claim of which this worker knows: then it has made that claim again.
            held = self.in_hand | {row.id for row in (*self.unstarted, *self._returning, *(each.row for each in self.finished))}
            self.unstarted.extend(row for row in change.rows if row.id not in held)
            self._unannounced.extend(filter(is_heard, change.settled))

    def _forget(self, settled: Iterable[Settlement]) -> None:
        """Until now, each of them was one of those that might have killed this worker."""
        for settlement in settled:
            self._slots.pop(settlement.row.id).forget(settlement.row.id)

    def _recover(self) -> LeaseChange | None:
        """What a transaction did whose COMMIT got through, though its answer was lost; None when it did nothing."""
        assert self._unsure  # noqa: S101
        change = self.broker.recover(self.me, self._unsure.left, self._unsure.kept)
        if change:
            change.settled = self._unsure.came.settled
        return change

    def _settle_one_by_one(self, error: BaseException) -> BaseException | None:
        """Something among what is finished can't be stored: find it, and have it failed instead. Returns what kept us."""
        logger.error("%s can't settle its batch: %r", self.me, error)
        time.sleep(DATABASE_PAUSE[0])
        settled, self._unsure = self._unsure.settled if self._unsure else [], None
        try:
            for settlement in settled:
                try:
                    self._settle_first(settlement)
                except BaseException as found:
                    if not outcomes.is_unstorable(found):
                        raise
                    self._settle_first(outcomes.settle_unstorable(settlement, found))
            if not self.has_news:
                self._apply(self._change_lease(0, ()))  # which ends the lease, unless there are rows under it
        except DatabaseError as again:
            return again
        return None

    def _settle_first(self, settlement: Settlement) -> None:
        """Settle the first of what is finished, by itself."""
        with self._lock:
            others = {each.row.id for each in self.finished[1:]} | {row.id for row in (*self.unstarted, *self._returning)}
            self._unsure = asked = Change([settlement], [], self.in_hand | others, None, LeaseChange())
        self._apply(self.broker.settle_and_claim(self.me, [settlement], keep=True, lease=asked.came))

    def _wait_out(self, error: BaseException) -> None:
        """Wait after a database error, longer each time. The next try opens a new connection."""
        logger.warning("%s waits %.1f s for the database: %s", self.me, self._error_pause, str(error).strip())
        time.sleep(self._error_pause)
        self._error_pause = min(self._error_pause * 2, DATABASE_PAUSE[1])

    def wait_until_due(self) -> float | None:
        """As `Broker.wait_until_due`; 0 when the database does not answer."""
        try:
            with queue_connection.held():
                due = self.broker.wait_until_due()
        except DatabaseError as error:
            self._wait_out(error)
            return 0.0
        self._error_pause = DATABASE_PAUSE[0]
        return due

    def fair_share(self, most: int) -> int:
        """How many rows this worker has if all workers have as many; `most` if more, and if the database does not answer."""
        try:
            with queue_connection.held():
                return self.broker.fair_share(most)
        except DatabaseError:
            return most

    def is_alone_due(self) -> bool:
        """Whether a task that runs alone is due. Raises django.db.Error."""
        with queue_connection.lock():
            return self.broker.is_alone_due()

    def keep_notes(self) -> None:
        """Store what tasks have noted: their threads and children may do so after them."""
        with queue_connection.lock():
            self._noted += self._notes.read()
            if self._noted:
                try:
                    keep_notes(self._noted, using=self.broker.using)
                    self._noted = []
                except DatabaseError as error:
                    logger.warning("%s could not keep %d notes yet: %s", self.me, len(self._noted), str(error).strip())
