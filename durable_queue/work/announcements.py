"""Announce that a task has ended: call its hook, send the signal, log a failed attempt."""

import contextvars
import logging
import time
from collections.abc import Callable

from django_q.conf import logger
from django_q.signals import post_execute

from durable_queue.store.leases import Settlement
from durable_queue.task import hooks, limits, running
from durable_queue.work import task_connections
from durable_queue.work.attempt import LATE, RECEIVER_LIMIT
from durable_queue.work.slot import Slot


def is_heard(settlement: Settlement) -> bool:
    """Whether a settled task has a hook, a receiver, or a failed attempt to log."""
    has_ended = settlement.retry_at is None
    if not settlement.begun:
        return False  # nobody here has read the task
    return bool(settlement.attempt or (has_ended and (post_execute.receivers or settlement.task.get("hook"))))


def announce(settlement: Settlement, slot: Slot) -> None:
    """Do what django-q2's monitor does once a result is saved: hook, signal, log line. Errors in them are logged.

    `slot`: of the calling thread.
    """
    task, has_ended = settlement.task, settlement.retry_at is None
    if has_ended and (hook := task.get("hook")):
        _guard(f"The hook {hook} of {task['name']} ({task['path']})", _call_hook, settlement, slot)
    if has_ended and post_execute.receivers:
        _guard(f"A receiver of post_execute, told of {task['name']} ({task['path']}),", _send, settlement, slot)
    if settlement.attempt:
        is_error = settlement.attempt.outcome != settlement.attempt.Outcome.CANCELLED
        logger.log(
            logging.ERROR if is_error else logging.INFO,
            "%s (%s): attempt %d %s, %s: %s",
            task["name"],
            task["path"],
            settlement.attempt.number,
            settlement.attempt.outcome,
            "the last one" if has_ended else f"the next one is at {settlement.retry_at:%X}",
            settlement.attempt.error,
        )


def _guard(what: str, follow: Callable[[Settlement], None], settlement: Settlement, slot: Slot) -> None:
    """Whatever this raises costs nobody else anything; what hangs ends as a task does."""
    slot.begin_hook(time.monotonic() + RECEIVER_LIMIT + LATE)
    try:
        with running.others():
            contextvars.Context().run(limits.under, RECEIVER_LIMIT, what, follow, settlement)
    except BaseException:
        logger.exception("%s has failed", what)
    finally:
        slot.end()
        task_connections.clean()


def _call_hook(settlement: Settlement) -> None:
    task_connections.close_old()  # the hook's: the database may have been restarted since
    hooks.call(settlement.history().as_task())


def _send(settlement: Settlement) -> None:
    for receiver, error in post_execute.send_robust(sender="django_q", task=settlement.task):
        if isinstance(error, Exception):
            logger.error("post_execute receiver %s failed: %r", receiver, error)
