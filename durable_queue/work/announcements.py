"""Tell the rest of the program that a task has ended: hooks, signals, lines in the output."""

import time
from contextlib import nullcontext

from django.db import close_old_connections
from django_q.conf import Conf, logger
from django_q.models import Task
from django_q.signals import call_hook, post_execute

from durable_queue.store.leases import LeaseChange, Settlement
from durable_queue.task import running
from durable_queue.work import task_connections
from durable_queue.work.progress import LONGEST_READ, Slot


def is_heard(change: LeaseChange) -> bool:
    """Whether there is anything to tell."""
    return bool(post_execute.receivers or any(s.attempt or s.task.get("hook") for s in change.settled))


def announce(change: LeaseChange, slot: Slot) -> None:
    """Do what django-q2's monitor does once a result is saved: hooks, signals, log lines. Errors in them are logged."""
    with_hook = change.with_hook
    has_receivers = post_execute.receivers and any(settlement.retry_at is None for settlement in change.settled)
    with running.others() if with_hook or has_receivers else nullcontext():
        if with_hook:
            close_old_connections()  # those that hooks use: the database may have been restarted since
        for task in with_hook:
            slot.begin_hook(time.monotonic() + (Conf.TIMEOUT or LONGEST_READ))  # one that hangs ends like a task
            call_hook(sender=Task, instance=task)
            slot.end()
        for settlement in change.settled:
            _announce(settlement)
    if with_hook or has_receivers:
        task_connections.clean()


def _announce(settlement: Settlement) -> None:
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
