"""What `ps` shows of a worker, where setproctitle is installed, as in django-q2."""

import multiprocessing
from importlib import import_module
from importlib.util import find_spec

from durable_queue.task.text import storable

_set = import_module("setproctitle").setproctitle if find_spec("setproctitle") else None


def show_title(doing: str) -> None:
    """Show what this process does."""
    if _set:
        _set(storable(f"qcluster {multiprocessing.current_process().name} {doing}"))
