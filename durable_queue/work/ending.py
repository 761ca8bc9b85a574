"""The end of an attempt: what it came to becomes a settlement, whatever goes wrong with that."""

import time
import traceback
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django_q.conf import Conf, error_reporter, logger
from django_q.exceptions import TimeoutException

from durable_queue.store.leases import Row, Settlement
from durable_queue.task import limits, running, signing
from durable_queue.task.calls import with_progress, without_progress
from durable_queue.task.cancelled import Cancelled
from durable_queue.task.running import RunningTask
from durable_queue.work import outcomes, results
from durable_queue.work.functions import Function
from durable_queue.work.slot import Slot

CHECK_LIMIT = float(Conf.TIMEOUT or 60)  # seconds that checking a result may take


class Ending:
    """An attempt, as far as its end needs it."""

    row: Row
    slot: Slot
    task: dict[str, Any]
    function: Function
    settlement: Settlement | None = None  # once it has ended
    was_cancelled = False  # it has heeded a user's request
    was_interrupted = False  # at its limit: it may have left anything behind
    began: float  # monotonic
    _started: datetime
    _worker: str
    _running: RunningTask | None = None
    _queued: datetime | None = None  # when its task was queued, if the task's id doesn't tell

    def _allow(self, seconds: float) -> None:
        """What runs now may take so many seconds, and a few more to heed its limit; 0.0 for any."""
        raise NotImplementedError

    def _fail(self, reason: str) -> None:
        self.task |= {"success": False, "result": reason, "stopped": self._stopped(), "started": self._started}

    def _stopped(self) -> datetime:
        """The present moment, as its end. It has taken what the monotonic clock says: the other may have been set meanwhile."""
        now = timezone.now()
        self._started = now - timedelta(seconds=time.monotonic() - self.began)
        return now

    def _fail_by(self, error: BaseException) -> None:
        """Make a failed attempt of what no task should raise: `sys.exit`, an error that can't be shown …"""
        report()
        try:
            self._fail(f"{error!r} : {''.join(traceback.format_exception(error))}")
        except BaseException:
            self._fail(f"{type(error).__name__}, which can't be shown")

    def _describe(self, error: BaseException) -> str:
        """What the history says of what the task has raised. To heed a request to cancel it is no error."""
        if self._running and self._running.is_cancelled and isinstance(error, Cancelled):
            self.was_cancelled = True
            return self._running.request
        return describe(error)

    def _settle(self) -> Settlement:
        task = self.task
        task["started"] = self._started
        if task["success"] and type(task["result"]) not in results.SIMPLE:
            self._check_result()
        mine = self._running
        payload = self._note_progress(mine.results) if mine and mine.results else None
        if self.was_cancelled:
            return self._end(outcomes.settle_cancelled(self.row, task, self._worker))
        function = mine.function if mine and mine.function else (task["path"], self.function.itself)
        settlement = outcomes.settle_finished(self.row, task, self._worker, function)
        return self._end(settlement._replace(payload=payload) if payload and settlement.retry_at else settlement)

    def _check_result(self) -> None:
        """A result that nobody could load is a failure, and not a success without a result."""
        self._allow(CHECK_LIMIT)
        try:
            limits.under(CHECK_LIMIT, "Checking its result", results.check, self.task["result"])
        except results.UnloadableError as error:
            self._fail(f"Its result can be pickled, but not loaded again: {error.__cause__!r} : {traceback.format_exc()}")
        except TimeoutException as error:
            self.was_interrupted = True
            self._fail(describe(error))
        except BaseException as error:
            self._fail(f"Its result can't be pickled: {error!r} : {traceback.format_exc()}")

    def _note_progress(self, results: list[object]) -> str | None:
        """Have the task say which of its calls have been made. Returns the payload for another attempt, which goes on there."""
        try:
            if self.task["success"]:
                self.task["args"] = without_progress(self.task["args"])
                return None
            task = signing.loads(self.row.payload)  # its own arguments may have been changed by a call
            self.task["args"] = task["args"] = with_progress(task["args"], results)
            payload = signing.dumps(task)
        except BaseException as error:
            logger.warning("%s makes all its calls again: %r", self.task["name"], error)
            return None
        return payload

    def settle_error(self, error: BaseException) -> Settlement:
        """The settlement of an attempt that came to nothing, because of an error from outside of the task."""
        try:
            self._fail_by(error)
            return self._settle()
        except Exception as another:
            reason = f"{type(error).__name__} around the task, and then {type(another).__name__}"
            return self._end(outcomes.settle_refused(self.row, reason, self._worker))

    def _end(self, settlement: Settlement) -> Settlement:
        self.settlement = settlement = settlement._replace(queued=self._queued) if self._queued else settlement
        if self._running:
            running.end(self._running)
            # Else the two would keep each other until the collector comes.
            self._running.entered_call = self._running.leaving_call = None
        self.slot.finish()
        return settlement


def describe(error: BaseException) -> str:
    """As django-q2 keeps an error, which may be one that can't be shown."""
    report()
    try:
        text = str(error)
    except BaseException as another:
        text = f"{type(error).__name__}, which can't be shown: {another!r}"
    return f"{text} : {traceback.format_exc()}"


def report() -> None:
    """Tell the configured error reporters of the exception at hand."""
    try:
        if error_reporter:
            error_reporter.report()
    except Exception:
        logger.exception("An error reporter failed")
