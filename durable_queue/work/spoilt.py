"""A worker whose surroundings a task has spoilt for all: it says so, and retires."""

from django_q.conf import logger

from durable_queue.task import running
from durable_queue.work.holdings import Holdings
from durable_queue.work.stop import Stop
from durable_queue.work.surroundings import Surroundings

NAMED = 5  # functions that the output names


def retire_if_spoilt(surroundings: Surroundings, holdings: Holdings, stop: Stop) -> None:
    """Compare what belongs to the whole process. Nobody can put it back under a task that runs."""
    try:
        changed = surroundings.changes(is_idle=not holdings.in_hand)
    except Exception:  # a thread changes the environment at this moment …
        logger.exception("%s can't see whether its surroundings are as they were", holdings.me)
        return
    if changed:
        paths = sorted({*running.paths_in_hand(), *(finished.task["path"] for finished in holdings.finished)})
        some = ", ".join(paths[:NAMED]) + (f" and {len(paths) - NAMED} others" if len(paths) > NAMED else "")
        logger.error("%s changed, which is every task's here: by one of %s. Mark it with @alone", ", ".join(changed), some)
        stop.retire("a task has changed what is every task's")
