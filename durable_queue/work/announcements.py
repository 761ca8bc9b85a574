"""Announce that a task has ended: call its hook, send the signal, log a failed attempt."""

import time

from django.db import close_old_connections
from django_q.conf import Conf, logger
from django_q.models import Task
from django_q.signals import call_hook, post_execute

from durable_queue.store.leases import Settlement
from durable_queue.task import running
from durable_queue.work import task_connections
from durable_queue.work.progress import LONGEST_READ, Slot


def is_heard(settlement: Settlement) -> bool:
    """Whether a settled task has a hook, a receiver, or a failed attempt to log."""
    has_ended = settlement.retry_at is None
    return bool(settlement.attempt or (has_ended and (post_execute.receivers or settlement.task.get("hook"))))


def announce(settlement: Settlement, slot: Slot) -> None:
    """Do what django-q2's monitor does once a result is saved: hook, signal, log line. Errors in them are logged."""
    has_ended = settlement.retry_at is None
    hook = settlement.task.get("hook") if has_ended and settlement.saves_result else None
    if hook or (has_ended and post_execute.receivers):
        slot.begin_hook(time.monotonic() + (Conf.TIMEOUT or LONGEST_READ))  # one that hangs ends like a task
        try:
            with running.others():
                _call(settlement, hook=hook)
        except BaseException:
            logger.exception("What follows %s (%s) has failed", settlement.task["name"], settlement.task["path"])
        finally:
            slot.end()
            task_connections.clean()
    if settlement.attempt:
        logger.error(
            "%s (%s): attempt %d %s, %s: %s",
            settlement.task["name"],
            settlement.task["path"],
            settlement.attempt.number,
            settlement.attempt.outcome,
            "the last one" if has_ended else f"the next one is at {settlement.retry_at:%X}",
            settlement.attempt.error,
        )


def _call(settlement: Settlement, *, hook: object) -> None:
    if hook:
        close_old_connections()  # the hook's: the database may have been restarted since
        call_hook(sender=Task, instance=Task(*settlement.history()))
    for receiver, error in post_execute.send_robust(sender="django_q", task=settlement.task):
        if isinstance(error, Exception):
            logger.error("post_execute receiver %s failed: %r", receiver, error)
