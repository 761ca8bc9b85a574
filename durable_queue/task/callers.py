"""Which task a caller works for: by its context, or by what was in hand when its thread or process started."""

import sys
import threading

from durable_queue.task.process import this_process
from durable_queue.task.running import RunningTask, current_task

# The modules whose threads and processes work for the caller that gives them work, not for the task that started them.
POOLS = ("concurrent.futures.thread", "concurrent.futures.process", "multiprocessing.pool")


def current_attempt() -> RunningTask | None:
    """The attempt in hand, for those that carry its context in the process that runs it: they share its counts."""
    task = current_task.get()
    return task if task in this_process.in_hand else None


def starter_of_caller() -> RunningTask | None:
    """The task whose context the caller has, or that was in hand when the calling thread or process started."""
    task = current_task.get()
    return task or this_process.started_under.get(threading.current_thread(), this_process.sole or this_process.inherited)


def task_of_caller() -> RunningTask | None:
    """The task that the caller works for; None outside of tasks, and where it may be work for another one.

    It is the context's. A bare thread works for the task that was in hand when it started, until another task or a hook may
    have given it work; a forked child, and a thread of a pool, until their task ends.
    """
    task = starter_of_caller()
    if task is None or (task is current_task.get() and not this_process.inherited):
        return task
    if task.is_in_hand:
        if task is current_task.get() and not _is_in_pool():  # a child that the task has forked
            return task
        is_known = not this_process.has_stragglers or threading.current_thread() in this_process.started_under
        return task if task.has_been_alone and (is_known or task is current_task.get()) else None
    return None if this_process.inherited or task.era != this_process.era or _is_in_pool() else task


def _is_in_pool() -> bool:
    frame = sys._getframe()
    while frame.f_back:
        frame = frame.f_back
        if frame.f_globals.get("__name__") in POOLS:
            return True
    return False
