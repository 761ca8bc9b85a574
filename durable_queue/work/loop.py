"""A worker's loop: claim rows, run each, settle what became of them, claim again. The thread that leads goes through it.

Settling one batch and claiming the next is one transaction.
"""

import os
import time
from collections.abc import Sequence

from django_q.conf import logger

from durable_queue.conf import cluster_conf
from durable_queue.models import Worker
from durable_queue.store import wakeup
from durable_queue.store.broker import Broker
from durable_queue.store.leases import LeaseLostError
from durable_queue.store.wakeup import PASSED_ON
from durable_queue.work.announcements import announce
from durable_queue.work.birth import Birth
from durable_queue.work.crew import Crew, Member
from durable_queue.work.holdings import DATABASE_PAUSE, Holdings
from durable_queue.work.keeper import Keeper
from durable_queue.work.pace import LINGER, LINGER_FROM, OTHERS_FIRST, POLL, SLOW_CLAIM, Pace, yield_for
from durable_queue.work.pauses import LOOK, Pauses
from durable_queue.work.progress import Progress
from durable_queue.work.runner import Runner
from durable_queue.work.spoilt import retire_if_spoilt
from durable_queue.work.stop import Stop
from durable_queue.work.surroundings import Surroundings
from durable_queue.work.watch import SETTLE_AFTER, Watch

IDLE_ALONE = 10.0  # seconds without work after which a worker of those that run alone ends


class Loop:
    """One worker's way of getting through the queue."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a worker
        self, broker: Broker, me: Worker, progress: Progress, stop: Stop, birth: Birth, surroundings: Surroundings
    ) -> None:
        """`me`: this process's row, stored."""
        threads = birth.threads
        self.me = me
        self.stop = stop
        self.is_drained = False  # with `run_once`, or `alone`: whether nothing was due any more
        keeper = Keeper(me, progress)
        self.holdings = Holdings(broker, me, keeper.notes)
        self.crew = Crew(threads, progress, surroundings, self.lead)
        self.watch = Watch(self.holdings, self.crew, progress, stop)
        own = (self.holdings, self.crew, self.watch)
        self.runner = Runner(*own, progress=progress, stop=stop, keeper=keeper, birth=birth, surroundings=surroundings)
        self._surroundings = surroundings
        self._looked_at = 0  # how many tasks had run when the surroundings were compared
        self.runner.on_coroutine_end = self._tell_leader
        self._ear = wakeup.Ear(broker.queue, stop.wakes)
        self._run_once = birth.run_once
        self._alone = birth.alone
        self._hints: Sequence[int] = ()
        self._is_deaf = False
        self.pace = Pace(1 if birth.alone else cluster_conf.claim, threads=threads)
        self._pauses = Pauses(broker)
        self._passes = 0  # how often the lead was passed on before the batch in hand

    def lead(self, member: Member) -> None:
        """Claim, run and settle until another thread leads, or the worker ends."""
        while not self.stop.is_over:
            try:
                if not self._step(member):
                    return
            except LeaseLostError:
                self.stop.abandon(self.me)
            except BaseException:  # a hook has called sys.exit …
                self.stop.end_if_closed()
                logger.exception("%s goes on after an error", self.me)
                time.sleep(DATABASE_PAUSE[1])
                if not self._finish(member):
                    return

    def _step(self, member: Member) -> bool:
        """Do the next thing; return whether this thread still leads."""
        if not self._announce(member):
            return False
        self._share_slow_batch()
        row = None if self._is_time_to_settle() else self.holdings.take()
        if row:
            self.runner.run(row, member)
            return self._finish(member)
        if self.stop.noted:
            self._end()
        else:
            self._settle_and_claim_or_wait()
        return True

    def _is_time_to_settle(self) -> bool:
        if self.stop.noted:
            self.holdings.return_unstarted()
            return True
        holdings = self.holdings
        if holdings.has_alone:
            return True
        return bool(holdings.finished) and time.monotonic() - holdings.oldest_finish > SETTLE_AFTER

    def _share_slow_batch(self) -> None:
        """Give back most of a batch that was claimed as a quick one, and isn't: another worker may be idle."""
        slow, waiting = self.crew.passes - self._passes, len(self.holdings.unstarted)
        if slow > 1 and waiting > SLOW_CLAIM and not self.pace.is_quick(slow, self.pace.last_claim - waiting):
            self.holdings.return_unstarted(keep=SLOW_CLAIM)
            self.holdings.settle_and_claim()
            wakeup.wake(self.holdings.broker.queue)

    # Other threads.

    def _finish(self, member: Member) -> bool:
        leads = self.crew.finish(member)
        if not leads:
            self._tell_leader()
        return leads

    def _tell_leader(self) -> None:
        """Something has finished in another thread: it is to be settled soon."""
        leader = self.crew.leader
        if leader and not leader.began:
            self.stop.wake()
        else:
            self.watch.closely()

    # Settle and claim.

    def _settle_and_claim_or_wait(self) -> None:
        holdings = self.holdings
        if holdings.unstarted and self._pauses.has_begun_since(holdings.claimed):
            holdings.return_unstarted()
        claim = self._room()
        if claim and self.pace.lets_grow(claim) and not self._run_once:
            time.sleep(LINGER)
        hints, self._hints = self._hints, ()
        if hints and not claim and not any(number & PASSED_ON for number in hints):
            wakeup.wake(holdings.broker.queue, hints[-1] | PASSED_ON)  # for another worker: this one has no room
        if claim and hints:
            self._let_idle_workers_go_first(hints)
        if holdings.finished and self.pace.last_claim < LINGER_FROM:
            os.sched_yield()  # a process that waits for the task's effect may need this processor: settling is less urgent
        # After a hint there is something to claim, most likely: to look first would only take time.
        if holdings.has_news or (hints and claim and not self._pauses.is_paused):
            self._settle_and_claim(claim, [number & ~PASSED_ON for number in hints if number & ~PASSED_ON])
        elif holdings.unstarted:
            return  # what there was to settle, the watch has settled meanwhile
        else:
            due = holdings.wait_until_due() if claim else None
            self._pauses.note(due, hinted=bool(hints))
            if due is not None and due <= 0:
                self._settle_and_claim(claim, ())
            elif not self._is_drained():
                holdings.keep_notes()  # a task's threads and children may outlive it
                longest = LOOK if self._pauses.is_paused else self.pace.pause if claim else OTHERS_FIRST
                self._wait(longest if due is None else min(due, longest))

    def _let_idle_workers_go_first(self, hints: Sequence[int]) -> None:
        """Wait the longer for a new task, the more this worker has in hand already: the worker that has least takes it."""
        pause = yield_for(len(self.holdings.in_hand))
        if pause:
            if not any(number & PASSED_ON for number in hints):
                wakeup.wake(self.holdings.broker.queue, hints[-1] | PASSED_ON)
            time.sleep(pause)

    def _room(self) -> int:
        """How many rows to claim."""
        if self.holdings.unstarted:
            return 0
        self.pace.note_slow(self.crew.passes - self._passes)
        room = self.pace.room(threads=self.crew.free + 1, coroutines=self.runner.free_coroutines)
        load = len(self.holdings.in_hand)
        if not room or not self.pace.piles_up(load):
            return room
        share = self.holdings.fair_share(load + room)
        if self.pace.leaves_to_others(load, share):
            return 0
        return min(room, share - load) if share > load else room

    def _settle_and_claim(self, claim: int, announced: Sequence[int]) -> None:
        holdings, began = self.holdings, time.monotonic()
        if self._looked_at != self.runner.has_run:
            self._looked_at = self.runner.has_run
            retire_if_spoilt(self._surroundings, holdings, self.stop)
        passed_on = holdings.has_alone
        change = holdings.settle_and_claim(claim, announced)
        if change is None:
            return
        if passed_on:
            self.stop.tell_of_waiting_alone()
        if claim:
            rows = len(change.rows)
            if rows == claim or 0 < rows < len(announced):
                wakeup.wake(holdings.broker.queue)  # there may be more, or come more; this worker is busy now
            self.pace.note_batch(seconds=began - holdings.claimed, returned=self.watch.returned)
            self.pace.note_claim(rows, announced=len(announced))
            self._passes, self.watch.returned, holdings.claimed = self.crew.passes, 0, time.monotonic()
            if not (rows or announced or change.settled):
                self._wait(POLL[0])  # it is due, but another has locked it, and may for long

    def _wait(self, seconds: float) -> None:
        self._hints = self._ear.wait(seconds)
        if not self._hints:
            self.pace.note_silence()

    def _is_drained(self) -> bool:
        """Nothing is due: whether the worker has nothing left to do."""
        is_idle = self._alone and time.monotonic() - self.pace.last_work > IDLE_ALONE
        if (self._run_once or is_idle) and self.holdings.is_empty:
            self.is_drained = True
            if self._run_once and self.holdings.is_alone_due():
                self.stop.tell_of_waiting_alone()
            self._be_over()
        return self.is_drained

    # Announce.

    def _announce(self, member: Member) -> bool:
        """Tell of what was settled; return whether this thread still leads."""
        while settlement := self.holdings.next_unannounced():
            member.began = time.monotonic()
            self.watch.closely()
            try:
                announce(settlement, member.slot)
            finally:
                self.holdings.end_announcement()
            if not self._finish(member):
                return False
        return True

    # End.

    def _end(self) -> None:
        """Settle what has finished; once nothing is in hand any more, end the worker. Waits for the database."""
        holdings = self.holdings
        if holdings.has_news:
            holdings.settle_and_claim()
        elif not holdings.is_empty:
            if not self._is_deaf:
                self._is_deaf = True
                self._ear.deafen()
                wakeup.wake(holdings.broker.queue)  # a hint may have been for this one
            self._wait(POLL[0])
        else:
            wakeup.wake(holdings.broker.queue)
            self._be_over()

    def _be_over(self) -> None:
        self.stop.end()
        self.watch.closely()
