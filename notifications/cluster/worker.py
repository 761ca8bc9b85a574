"""A worker process: django-q2's own worker loop, fed straight from the queue table.

`django_q.worker.worker` asks of its two queues only `get` and `put`. It is given a `Feed` for both: `get` hands out the
next row of a batch that was claimed, `put` keeps the result until the batch is settled. Settling one batch and claiming
the next is one transaction.
"""

import logging
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.db import Error as DatabaseError
from django.db import close_old_connections, connections
from django.utils import timezone
from django_q.conf import Conf, error_reporter, logger
from django_q.models import Task
from django_q.signals import call_hook, post_execute, post_execute_in_worker, pre_execute
from django_q.worker import worker as run_tasks

from notifications.cluster import attempts, lookup, maintenance, processes, queue_connection, running, signals, wakeup
from notifications.cluster.broker import Broker, Lease, LeaseLostError, Row, Settlement
from notifications.cluster.conf import cluster_conf
from notifications.cluster.models import Worker, keep_notes
from notifications.cluster.notes import Notes
from notifications.cluster.progress import Progress
from notifications.cluster.queue_connection import QUEUE, outside_of_event_loops, own_connection
from notifications.cluster.running import AFTER, BEFORE, RunningTask, current_task

if TYPE_CHECKING:
    from collections.abc import Callable

TICK = 0.25  # seconds between two looks of the guard thread
SETTLE_AFTER = 0.05  # seconds that a finished task waits for its batch: what a killed worker had finished in them runs again
PATIENCE = 0.5  # how long (seconds) a worker keeps rows that it has not started, and results beside a slow task
POLL = (0.2, 2.0)  # shortest and longest pause (seconds) between two looks at the table, when no hint came
SOON = 0.005  # the pause (seconds) after a hint that came too early; it grows from there
LINGER = 0.02  # pause (seconds) that lets a batch grow, after one of LINGER_FROM rows or more that was not full
LINGER_FROM = 3
PAUSE = (0.1, 2.0)  # first and longest pause (seconds) after a database error
LATE = 3  # seconds that an overdue task has to heed its timeout, before the process is killed

LONGEST_READ = 60  # seconds to unpickle a payload and import its function, where tasks have no timeout

SIMPLE = (type(None), bool, int, float, str, bytes)

AGAIN = 75  # the exit code of a worker that left work behind where nobody waits: the supervisor starts another (sysexits.h)


@dataclass(frozen=True)
class Birth:
    """What a supervisor tells its new worker."""

    name: str
    supervisor: str  # a UUID
    supervisor_pid: int
    restarts: int
    run_once: bool


class Stop:
    """The wish to stop: SIGTERM notes it, the loop reads it between two tasks, and whoever waits is woken."""

    def __init__(self) -> None:
        """Set the handler."""
        self.noted = False
        self.wakes, end = os.pipe()  # becomes readable when any signal came
        for pipe in (self.wakes, end):
            os.set_blocking(pipe, False)
        signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self.noted = True


class Timer:
    """What django-q2's worker loop takes for a shared `multiprocessing.Value`; ours is nobody else's."""

    value: float = -1

    def get_lock(self) -> Any:
        """No lock: one that is shared dies with its holder. The loop asks for it right after the call."""
        if post_execute_in_worker.receivers and (task := current_task.get()):
            task.call = AFTER
        return nullcontext()


def _begin_call(**_: object) -> None:
    """The last receiver of `pre_execute`: the call comes next."""
    if task := current_task.get():
        task.call = 0


def _has_receivers_before() -> bool:
    """Whether `pre_execute` has receivers; then `_begin_call` comes after all of them."""
    if not pre_execute.receivers:
        return False
    if pre_execute.receivers[-1][1] is not _begin_call:
        pre_execute.disconnect(_begin_call)
        pre_execute.connect(_begin_call, weak=False)
    return True


class Keeper:
    """What the attempts of a worker need of it: notifications/cluster/running.py."""

    def __init__(self, me: Worker, progress: Progress) -> None:
        """`me`: the worker's row. `progress`: its file, whose memory forked children share."""
        self._me = me
        self._progress = progress
        self.notes = Notes()

    @outside_of_event_loops
    def is_held(self, row: int) -> bool:
        """Whether the worker's lease holds a queue row, by the database."""
        with own_connection() as connection:
            return self._me.lease is not None and lookup.is_held(connection, row, self._me.lease)

    def is_in_hand(self, task_id: str) -> bool:
        """Whether the worker runs this task now, also as a forked child of the worker sees it."""
        in_hand = self._progress.in_hand
        return in_hand is not None and in_hand.task_id == task_id

    def tell(self, task_id: str, text: str) -> None:
        """Keep a note of a task."""
        self.notes.tell(task_id, text)


class Feed:
    """Both queues of django-q2's worker loop, on top of the table."""

    def __init__(self, broker: Broker, me: Worker, progress: Progress, stop: Stop, *, run_once: bool) -> None:
        """`me`: this process's row, stored."""
        self.broker = broker
        self.me = me
        self.progress = progress
        self.stop = stop
        self.is_drained = False  # with `run_once`: whether nothing was due any more
        self._ear = wakeup.Ear(broker.queue, stop.wakes)
        self._run_once = run_once
        self._mutex = threading.Lock()  # between this process's two threads
        self._unstarted: deque[Row] = deque()
        self._keeper = Keeper(me, progress)
        self._noted: list[tuple[str, str]] = []  # read, and not in the database yet
        self._returning: list[Row] = []  # given back, but the database may not know it yet
        self._unsure = False  # whether the last claim was committed
        self._untold: list[Lease] = []  # whose hooks and signals are still to come
        self._finished: list[Settlement] = []
        self._in_hand: Row | None = None
        self._task: dict[str, Any] = {}
        self._func: Callable[..., Any] | None = None
        self._began = 0.0
        self._started = datetime.now(UTC)
        self._last_claim = 0
        self._claiming = 0.0  # before the claim of the rows in hand
        self._claimed = 0.0  # after it
        self._claim_size = cluster_conf.claim
        self._last_exchange = 0.0
        self._hints: Sequence[int] = ()
        self._pause = POLL[0]
        self._error_pause = PAUSE[0]

    # What django-q2's worker loop calls.

    def get(self) -> dict[str, Any] | str:
        """The next task, or "STOP"."""
        while not self.stop.noted:
            self._tell()
            if not self._is_to_settle():
                with self._mutex:
                    task = self._next_started()
                if task:
                    return task
            if not self._exchange_or_wait():
                self.is_drained = True
                break
        self.close()
        return "STOP"

    def put(self, task: dict[str, Any]) -> None:
        """Keep a finished task until it is settled."""
        with self._mutex:
            if self._in_hand is None:
                return
            task = {**task, "func": self._task["func"], "started": self._started}
            if task["success"] and not isinstance(task["result"], SIMPLE):
                try:
                    pickle.dumps(task["result"])
                except Exception as error:
                    task["success"] = False
                    task["result"] = f"Its result can't be pickled: {error} : {traceback.format_exc()}"
            mine = current_task.get()
            function = mine.function if mine and mine.function else (self._task["path"], self._func)
            self._finished.append(attempts.settle_finished(self._in_hand, task, str(self.me), function))
            self._end()

    def fail_in_hand(self, error: BaseException) -> None:
        """Make a failed attempt of what escaped django-q2's worker loop: `sys.exit`, a module that raises on import …"""
        if self._in_hand is not None:
            _report()
            try:
                text = f"{error!r} : {''.join(traceback.format_exception(error))}"
            except Exception:
                text = f"{type(error).__name__}, which can't be shown"
            self.put({**self._task, "success": False, "result": text, "stopped": timezone.now()})
        else:
            logger.error("%s goes on after an error", self.me, exc_info=error)
            time.sleep(PAUSE[1])

    def close(self) -> None:
        """Settle what is finished, give back what is not started, and end the lease; waits for the database."""
        done = False
        while not done:
            with self._mutex:
                self._returning += self._unstarted
                self._unstarted.clear()
                lease = self._exchange()
                done = lease is not None and not self._unstarted
            if lease is not None:
                self._untold.append(lease)
        wakeup.wake(self.broker.queue)  # a hint may have been for this one
        self._tell()

    # The worker's own part.

    def _is_to_settle(self) -> bool:
        return bool(self._finished) and time.monotonic() - self._last_exchange > SETTLE_AFTER

    def _next_started(self) -> dict[str, Any] | None:
        while self._unstarted:
            row = self._unstarted.popleft()
            task = self._start(row)
            if task:
                return task
        return None

    def _start(self, row: Row) -> dict[str, Any] | None:
        """Read a row and note it as the one in hand; one that can't be run is finished at once."""
        self._in_hand, self._task, self._func = row, {}, None
        self._began = time.monotonic()
        self._started = datetime.now(UTC)
        self.progress.begin(row.id, self._began + (Conf.TIMEOUT or LONGEST_READ) + LATE)
        try:
            self._task = attempts.read(row)
            timeout = attempts.timeout_of(self._task)
            self.progress.run(self._task["id"], 0.0 if timeout < 0 else time.monotonic() + timeout + LATE)
            attempt = RunningTask(self._task["id"], self._task["path"], row=row.id, claimed=self._claiming, keeper=self._keeper)
            running.begin(attempt)
            self._func, call = attempts.function_of(self._task)
            if _has_receivers_before():
                attempt.call = BEFORE
        except attempts.RefusedError as error:
            _report()
            self._finished.append(attempts.settle_refused(row, str(error), str(self.me), self._task))
            self._end()
            return None
        except BaseException as error:
            # Unpickling or importing runs code of others.
            _report()
            stopped = {"success": False, "stopped": timezone.now(), "started": self._started}
            failed = {**self._task, **stopped, "result": f"{error!r} : {traceback.format_exc()}"}
            self._finished.append(attempts.settle_finished(row, failed, str(self.me)))
            self._end()
            return None
        return {**self._task, "func": call, "timeout": timeout}

    def _end(self) -> None:
        self._in_hand = None
        running.end()
        self.progress.end()

    def _exchange_or_wait(self) -> bool:
        """Settle and claim; wait for a while when nothing came. Returns whether to go on."""
        claim = 0 if self._unstarted else self._claim_size
        if claim and LINGER_FROM <= self._last_claim < claim and not self._run_once:
            time.sleep(LINGER)
        hints, self._hints = self._hints, ()
        announced = [number for number in hints if number]
        if self._finished and self._last_claim < LINGER_FROM:
            os.sched_yield()  # who waits for what was done may be waiting for this processor: to settle it is less urgent
        with self._mutex:
            # After a hint there is something to claim, most likely: to look first would only take time.
            if not (self._finished or self._unsure or hints) and (pause := self._pause_until_due()) > 0:
                lease = None
            else:
                pause = 0.0
                lease = self._exchange(claim, announced)
        if lease is not None:
            if lease.settled:
                self._untold.append(lease)
            if claim:
                self._note_claim(lease, len(announced))
            return True
        if self._run_once and pause > 0:
            return False
        if pause > 0:
            self._keep_notes()  # a task's threads and children may outlive it
            self._hints = self._ear.wait(min(pause, self._pause))
            if not self._hints:
                self._pause = min(self._pause * 1.5, POLL[1])
        return True

    def _note_claim(self, lease: Lease, announced: int) -> None:
        size = len(lease.rows)
        if size == self._claim_size or 0 < size < announced:
            wakeup.wake(self.broker.queue)  # there may be more, or come more; this worker is busy now
        if time.monotonic() - self._claimed < PATIENCE / 2:
            self._claim_size = min(self._claim_size * 2, cluster_conf.claim)
        self._last_claim, self._claimed = size, time.monotonic()
        if lease.rows:
            self._pause = POLL[0]
        elif announced:
            self._pause = SOON  # it isn't there yet
        elif not lease.settled:
            self._hints = self._ear.wait(POLL[0])  # it is due, but somebody has locked it, and may for long

    def _pause_until_due(self) -> float:
        """Seconds until a row is due; the longest pause when none is, or the database does not answer."""
        try:
            due = self.broker.wait_until_due()
        except DatabaseError as error:
            self._wait_out(error)
            return 0.0
        self._error_pause = PAUSE[0]
        return POLL[1] if due is None else due

    def _exchange(self, claim: int = 0, announced: Sequence[int] = ()) -> Lease | None:
        """One exchange with the table under the mutex; None when the database could not be reached or failed."""
        try:
            lease = self._recover() if self._unsure else None
            if lease is None:
                self._unsure = bool(claim)  # until we have heard that it was committed
                if claim:
                    self._claiming = time.monotonic()
                lease = self.broker.exchange(self.me, self._finished, self._returning, claim, announced)
        except LeaseLostError:
            raise
        except Exception as error:
            if attempts.is_unstorable(error):
                self._unsure = False
                self._settle_one_by_one(error)
            else:
                self._wait_out(error)
            return None
        self._unsure = False
        self._error_pause = PAUSE[0]
        self._last_exchange = time.monotonic()
        self._finished, self._returning = [], []
        self._unstarted.extend(lease.rows)
        self._keep_notes()
        return lease

    def _keep_notes(self) -> None:
        self._noted += self._keeper.notes.read()
        if self._noted:
            try:
                keep_notes(self._noted, using=self.broker.using)
                self._noted = []
            except DatabaseError as error:
                logger.warning("%s could not keep %d notes yet: %s", self.me, len(self._noted), str(error).strip())

    def _recover(self) -> Lease | None:
        """The lease of an exchange that was committed, though its answer was lost; None when it wasn't."""
        lease = self.broker.recover(self.me)
        if lease:
            lease.settled = self._finished
        return lease

    def _settle_one_by_one(self, error: Exception) -> None:
        """Something among what is finished can't be stored: find it, and have it failed instead."""
        logger.error("%s can't settle its batch: %r", self.me, error)
        time.sleep(PAUSE[0])
        try:
            while self._finished:
                settlement = self._finished[0]
                try:
                    lease = self.broker.exchange(self.me, [settlement])
                except Exception as found:
                    if not attempts.is_unstorable(found):
                        raise
                    lease = self.broker.exchange(self.me, [attempts.settle_unstorable(settlement, found)])
                del self._finished[0]
                self._untold.append(lease)
        except DatabaseError as again:
            self._wait_out(again)

    def _wait_out(self, error: Exception) -> None:
        """Wait after a database error, longer each time; the next try connects anew."""
        logger.warning("%s waits %.1f s for the database: %s", self.me, self._error_pause, str(error).strip())
        connections[QUEUE].close()
        time.sleep(self._error_pause)
        self._error_pause = min(self._error_pause * 2, PAUSE[1])

    def _tell(self) -> None:
        """What django-q2's monitor does once a result is saved: hooks, signals, log lines. Errors in them are logged."""
        while self._untold:
            lease = self._untold.pop(0)
            with_hook = lease.with_hook
            has_receivers = post_execute.receivers and any(settlement.retry_at is None for settlement in lease.settled)
            with running.others() if with_hook or has_receivers else nullcontext():
                if with_hook:
                    close_old_connections()  # those that hooks use: the database may have been restarted since
                for task in with_hook:
                    self.progress.expect(time.monotonic() + (Conf.TIMEOUT or LONGEST_READ))  # one that hangs ends like a task
                    call_hook(sender=Task, instance=task)
                    self.progress.expect(0.0)
                for settlement in lease.settled:
                    self._tell_of(settlement)

    def _tell_of(self, settlement: Settlement) -> None:
        if settlement.retry_at is None:
            for receiver, error in post_execute.send_robust(sender="django_q", task=settlement.task):
                if isinstance(error, Exception):
                    logger.error("post_execute receiver %s failed: %r", receiver, error)
        if settlement.attempt:
            logger.error(
                "%s (%s): attempt %d %s, %s: %s",
                settlement.task["name"],
                settlement.task["path"],
                settlement.attempt.number,
                settlement.attempt.outcome,
                "the last one" if settlement.retry_at is None else f"the next one is at {settlement.retry_at:%X}",
                settlement.attempt.error,
            )

    # The guard thread: a slow task holds back nobody.

    def guard(self) -> None:
        """Look after the task in hand, for ever: once it is slow, settle what is finished and give back what waits."""
        self.progress.work()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the thread that runs the task
        while True:
            self.progress.tick()
            time.sleep(TICK)
            if not self._is_held_up():
                continue
            with self._mutex:
                if self._is_held_up():
                    self._settle_beside_task()

    def _settle_beside_task(self) -> None:
        # What is given back is not run here any more, whether or not that got through: the next exchange says it again.
        returned, self._unstarted = list(self._unstarted), deque()
        self._returning += returned
        try:
            lease = self.broker.exchange(self.me, self._finished, self._returning)
        except LeaseLostError:
            os._exit(1)  # the task in hand runs elsewhere already
        except Exception as error:
            logger.warning("%s could not settle beside a slow task: %s", self.me, str(error).strip())
            connections[QUEUE].close()
            return
        self._finished, self._returning = [], []
        self._untold.append(lease)  # for the other thread: a hook is not this one's to run
        if returned:  # next time, no more than was started in this time
            self._claim_size = max(1, self._last_claim - len(returned))
            wakeup.wake(self.broker.queue)

    def _is_held_up(self) -> bool:
        if self._in_hand is None:
            return False
        now = time.monotonic()
        return bool(
            (self._unstarted and now - self._claimed > PATIENCE)
            or ((self._finished or self._returning) and now - self._began > PATIENCE)
        )


def main(birth: Birth, progress: Progress) -> None:
    """The life of a worker process, from fork to exit."""
    os.setsid()  # Ctrl-C in a terminal is the supervisor's to hear
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = Stop()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD])
    processes.die_with_parent(birth.supervisor_pid)
    if Conf.CPU_AFFINITY:
        _bind_to_cpus(birth)
    queue_connection.prepare_worker()
    broker = Broker(using=QUEUE)
    code = 0
    if me := _register(birth, stop, progress):
        _tell_of_start()
        feed = Feed(broker, me, progress, stop, run_once=birth.run_once)
        threading.Thread(target=feed.guard, daemon=True).start()
        running.prepare_worker()
        try:
            _work(feed)
        except LeaseLostError:
            logger.error("%s was taken for dead, and stops: its tasks run elsewhere", me)
        else:
            _say_goodbye(broker, me, progress)
        code = AGAIN if birth.run_once and not (feed.is_drained or stop.noted) else 0
    else:
        progress.path.unlink(missing_ok=True)
    # Not through the interpreter's end: exit handlers that were inherited from the supervisor are not ours to run.
    logging.shutdown()
    os._exit(code)


def _tell_of_start() -> None:
    for receiver, error in signals.worker_started.send_robust(sender="notifications.cluster"):
        if isinstance(error, Exception):
            logger.error("worker_started receiver %s failed: %s", receiver, error)


def _report() -> None:
    """Tell the configured error reporters of the exception at hand; django-q2's loop does so with those that it sees."""
    try:
        if error_reporter:
            error_reporter.report()
    except Exception:
        logger.exception("An error reporter failed")


def _bind_to_cpus(birth: Birth) -> None:
    """https://django-q2.readthedocs.io/en/master/configure.html#cpu-affinity."""
    cpus = sorted(os.sched_getaffinity(0))
    start = birth.restarts * Conf.CPU_AFFINITY
    os.sched_setaffinity(0, {cpus[(start + n) % len(cpus)] for n in range(Conf.CPU_AFFINITY)})


def _work(feed: Feed) -> None:
    """Run tasks until told to stop, recycled, or a task timed out (and may have left anything behind)."""
    while not feed.stop.noted:
        timer = Timer()
        try:
            run_tasks(feed, feed, timer)
        except LeaseLostError:
            raise
        except BaseException as error:  # sys.exit in a task, an exception that can't be shown …
            feed.fail_in_hand(error)
            continue
        break
    feed.close()


def _register(birth: Birth, stop: Stop, progress: Progress) -> Worker | None:
    """Store this process's row, once the leases of this host's dead are free; waits for the database."""
    pause = PAUSE[0]
    while not stop.noted:
        now = timezone.now()
        progress.tick()
        try:
            maintenance.free_dead(Broker(using=QUEUE))
            return Worker.objects.using(QUEUE).create(
                name=birth.name,
                queue=Conf.CLUSTER_NAME,
                host=processes.host_id(),
                pid=os.getpid(),
                born=processes.born(os.getpid()),
                supervisor=birth.supervisor,
                supervisor_pid=birth.supervisor_pid,
                restarts=birth.restarts,
                started=now,
                heartbeat=now,
            )
        except DatabaseError as error:
            logger.warning("A worker waits %.1f s for the database: %s", pause, str(error).strip())
            connections[QUEUE].close()
            time.sleep(pause)
            pause = min(pause * 2, PAUSE[1])
    return None


def _say_goodbye(broker: Broker, me: Worker, progress: Progress) -> None:
    try:
        broker.free(me)
        progress.path.unlink(missing_ok=True)
    except DatabaseError:
        logger.warning("%s could not take leave of the database; the next worker frees what it held", me)
