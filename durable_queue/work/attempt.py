"""One attempt at a task, from its row to what it came to: read it, run it, make a settlement of it.

What django-q2's worker does for callers around a task stands here (django_q/worker.py): signals, error reporters, the line in
the output.
"""

import asyncio
import contextvars
import functools
import inspect
import multiprocessing
import os
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pydoc import ErrorDuringImport
from typing import Any

from asgiref.sync import sync_to_async
from django.dispatch import Signal
from django_q.conf import Conf, logger
from django_q.exceptions import TimeoutException
from django_q.signals import post_execute_in_worker, pre_execute
from django_q.utils import get_func_repr

from durable_queue.store.leases import Row, Settlement
from durable_queue.task import limits, running
from durable_queue.task.calls import run_in_order
from durable_queue.task.coroutine_limit import run_coroutine, until_cancelled, until_heeded
from durable_queue.task.identifiers import queued_if_untold
from durable_queue.task.limits import OverLimitError, over_limit
from durable_queue.task.running import AFTER, BEFORE, RunningTask
from durable_queue.work import functions, outcomes, task_connections
from durable_queue.work.ending import Ending, describe, report
from durable_queue.work.keeper import Keeper
from durable_queue.work.slot import Slot

LONGEST_READ = 60  # seconds to unpickle a payload and import its function, where tasks have no timeout
LATE = 3  # seconds that an overdue task has to heed its timeout, before anything else is done about it
RECEIVER_LIMIT = float(Conf.TIMEOUT or LONGEST_READ)  # seconds for the receivers of a signal
LEFT_OPEN = "It left a database transaction open, which was rolled back: end it with COMMIT, or use transaction.atomic()"


class LeftOpenError(Exception):
    """A call has left a database transaction open."""


class Attempt(Ending):
    """One attempt at the task of a row."""

    timeout: float  # seconds that it, or the call in hand, may take; 0.0 for any
    has_left_thread = False  # a coroutine's thread is in a call that can't be interrupted
    _own_timeout: float | None = None  # of the task, whatever the policy of its function says
    _deadline = 0.0  # when (monotonic) its worker may be killed for it; 0.0 for never

    def __init__(self, row: Row, slot: Slot, worker: str, keeper: Keeper, claimed: float) -> None:
        """`worker`: its name. `claimed`: the moment (monotonic) before its row was claimed."""
        self.row = row
        self.slot = slot
        self.began = time.monotonic()
        self._started = datetime.now(UTC)
        self._worker = worker
        self._keeper = keeper
        self._claimed = claimed

    def read(self) -> Settlement | None:
        """Read the row and find its function, noting what is in hand. Returns a settlement when it can't be run."""
        self.task = {}
        self.slot.begin(self.row.id, self.began + (Conf.TIMEOUT or LONGEST_READ) + LATE)
        try:
            self.task = task = outcomes.read(self.row)
            self._own_timeout = task.get("timeout")
            self._queued = queued_if_untold(task)
            self.slot.run(task["id"])
            self._running = RunningTask(task["id"], task["path"], row=self.row.id, claimed=self._claimed, keeper=self._keeper)
            self._running.entered_call, self._running.leaving_call = self._begin_call, self._end_call
            self._running.began, self._running.started = self.began, self._started
            self._running.begun = self._keeper.note_begun(task["id"])
            running.begin(self._running)
            self.function = functions.function_of(task)
            self.timeout = functions.timeout_of(task, task["path"], self.function.itself)
        except outcomes.LackingError as error:
            report()
            return self._end(outcomes.settle_lacking(self.row, str(error), self._worker))
        except outcomes.RefusedError as error:
            report()
            return self._end(outcomes.settle_refused(self.row, str(error), self._worker, self.task))
        except BaseException as error:
            # Importing runs code of others.
            if isinstance(error, LookupError | ErrorDuringImport):  # as for a call of several
                self._fail(describe(error))
            else:
                report()
                self._fail(f"{error!r} : {traceback.format_exc()}")
            return self._end(outcomes.settle_finished(self.row, self.task, self._worker))
        self._allow(self.timeout)
        return None

    def _allow(self, seconds: float) -> None:
        """What runs now may take so many seconds, and `LATE` more to heed its limit; 0.0 for any."""
        self._deadline = time.monotonic() + seconds + LATE if seconds > 0 else 0.0
        self.slot.extend(self._deadline)

    def is_overdue(self, now: float) -> bool:
        """Whether it should be done by that moment (monotonic), and `LATE` more seconds have passed."""
        return 0.0 < self._deadline < now

    @property
    def habit_of(self) -> Any:
        """What its habits go by: the path of its function, or of each of its calls."""
        if self.function.itself is run_in_order:
            with suppress(TypeError, ValueError):  # what are no calls fails when it runs
                return tuple(str(path) for path, *_ in self.task["args"])
        return self.task["path"]

    # What runs in a thread.

    def run(self) -> Settlement:
        """Run the task in this thread."""
        try:
            task_connections.close_old()
            self._before()
            func, seconds = self.function.itself, self.timeout
            if self.function.is_coroutine:
                func, seconds = functools.partial(run_coroutine, seconds, "Task", func), until_heeded(seconds)
            try:
                if pre_execute.receivers:
                    self._allow(self.timeout)
                result = limits.under(seconds, "Task", func, *self.task["args"], **self.task["kwargs"])
                success = True
            except (Exception, TimeoutException) as error:
                self._end_if_child()
                self.was_interrupted = isinstance(error, TimeoutException)
                result, success = self._describe(error), False
            self._end_if_child()
            if task_connections.clean() and success:
                result, success = LEFT_OPEN, False
            self._after(result, success=success)
        except BaseException as error:
            self._end_if_child()
            self._fail_by(error)
            task_connections.clean()
        else:
            if post_execute_in_worker.receivers:
                task_connections.clean()
        return self._settle()

    def _begin_call(self, path: str, func: object) -> float:
        """The task goes on to its next call, which has a limit of its own."""
        seconds = functions.limit_of(path, func) if self._own_timeout is None else self.timeout
        self._allow(seconds)
        if limit := limits.of_thread():
            is_coroutine = inspect.iscoroutinefunction(func)
            limit.begin(until_heeded(seconds) if is_coroutine else seconds, f"The call of {path}")
        return seconds

    def _end_call(self) -> None:
        if task_connections.has_open_transaction():
            raise LeftOpenError(LEFT_OPEN)

    def _end_if_child(self) -> None:
        """End a process that the task has forked, and that has come back from it: it is no worker."""
        if os.getpid() != self._keeper.pid:
            os._exit(1)

    def leave(self) -> None:
        """Leave the task as it is: it is to run elsewhere."""
        assert self._running  # noqa: S101
        running.end(self._running)
        self._running.entered_call = self._running.leaving_call = None
        self.slot.end()

    # What runs in an event loop.

    def hand_to_loop(self, slot: Slot) -> contextvars.Context:
        """Leave the thread that has read it, for another slot; return the context that it is to run in."""
        slot.begin(self.row.id, self._deadline)
        slot.run(self.task["id"])
        self.slot.end()
        self.slot = slot
        context = contextvars.copy_context()
        running.current_task.set(None)
        return context

    async def arun(self, has_open_transaction: Callable[[], Awaitable[bool]]) -> Settlement:
        """Run the task in this coroutine; receivers of signals run in the task's own thread.

        `has_open_transaction`: whether the task is in a transaction there.
        """
        try:
            if pre_execute.receivers:
                await sync_to_async(self._before)()
            else:
                self._before()
            self._allow(self.timeout)
            limit = asyncio.timeout(self.timeout or None)
            try:
                async with limit:
                    call = until_cancelled(self._running, self.function.itself, *self.task["args"], **self.task["kwargs"])
                    result, success = await call, True
                if await has_open_transaction():
                    result, success = LEFT_OPEN, False
            except Exception as error:
                is_late = limit.expired() and isinstance(error, TimeoutError)
                self.was_interrupted = is_late
                error = OverLimitError(over_limit("Task", self.timeout)) if is_late else error
                result, success = self._describe(error), False
            if post_execute_in_worker.receivers:
                await sync_to_async(self._after)(result, success=success)
            else:
                self._after(result, success=success)
        except BaseException as error:
            self._fail_by(error)
        return self._settle()

    # Around it.

    def _before(self) -> None:
        self.task.pop("timeout", None)  # as in django-q2, whose receivers don't see it
        if logger.isEnabledFor(20):  # INFO
            name = multiprocessing.current_process().name
            group = f" [{self.task['group']}]" if "group" in self.task else ""
            function = get_func_repr(self.task["func"])
            logger.info("%s processing %s '%s'%s", name, self.task["name"], function, group)
        if pre_execute.receivers:
            assert self._running  # noqa: S101
            self._running.call = BEFORE
            self._send(pre_execute, "A receiver of pre_execute")
            self._running.call = 0

    def _after(self, result: object, *, success: bool) -> None:
        self.task |= {"result": result, "success": success, "stopped": self._stopped()}
        if post_execute_in_worker.receivers:
            assert self._running  # noqa: S101
            self._running.call = AFTER
            self._send(post_execute_in_worker, "A receiver of post_execute_in_worker")

    def _send(self, signal: Signal, what: str) -> None:
        self._allow(RECEIVER_LIMIT)
        limits.under(RECEIVER_LIMIT, what, signal.send, sender="django_q", func=self.function.itself, task=self.task)
