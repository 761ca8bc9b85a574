"""Tasks that change what is around them, and tasks that tell what they find."""

import decimal
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from typing import Any

from django.db import connection
from django.utils import timezone, translation

from durable_queue import alone
from tests.support.promised_tasks import note


def spoil() -> None:
    """Change what is a task's own."""
    os.chdir("/")
    os.umask(0o077)
    timezone.activate("Asia/Tokyo")
    translation.activate("fr")
    decimal.getcontext().prec = 3
    time.sleep(0.3)


def tell(seconds: float = 0.0) -> dict[str, Any]:
    """What a task finds."""
    time.sleep(seconds)
    mask = os.umask(0o022)
    os.umask(mask)
    return {
        "directory": os.getcwd(),
        "umask": mask,
        "time zone": timezone.get_current_timezone_name(),
        "language": translation.get_language(),
        "precision": decimal.getcontext().prec,
    }


def change_environment() -> int:
    """Change what belongs to the whole process."""
    os.environ["LEFT_BY_A_TASK"] = "1"
    time.sleep(0.1)
    return os.getpid()


def change_filters() -> int:
    """The same."""
    warnings.simplefilter("ignore", RuntimeWarning)
    time.sleep(0.1)
    return os.getpid()


def environment() -> tuple[int, str | None]:
    """The process, and what stands in its environment."""
    return os.getpid(), os.environ.get("LEFT_BY_A_TASK")


def alter_session() -> None:
    """Change a setting of the connection."""
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 12345" if connection.vendor == "postgresql" else "PRAGMA cache_size = 77")


def session() -> str:
    """That setting."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout" if connection.vendor == "postgresql" else "PRAGMA cache_size")
        return str(cursor.fetchone()[0])


def set_signals_aside(seconds: float) -> None:
    """Hear no signal any more."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    note("deaf")
    time.sleep(seconds)


def handlers() -> list[str]:
    """What a task, and a program that it starts, hear."""
    heard = "import signal; print(*[signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)], sep='|')"
    executed = subprocess.run([sys.executable, "-c", heard], capture_output=True, text=True, check=True).stdout.strip()
    blocked = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return [str(signal.getsignal(signal.SIGTERM) == signal.SIG_IGN), str(blocked), *executed.split("|")]


def square(number: int) -> int:
    """Work for a pool."""
    return number * number


@alone
def use_pools(times: int) -> int:
    """Use pools of forked processes, one after the other."""
    for _ in range(times):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(square, range(4)) == [0, 1, 4, 9]
    return len(multiprocessing.active_children())


def use_spawned_pools(times: int) -> int:
    """The same, in processes that inherit nothing."""
    for _ in range(times):
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            assert pool.map(square, range(4)) == [0, 1, 4, 9]
    return len(multiprocessing.active_children())


def work_beside(seconds: float) -> None:
    """Log, write and use the ORM."""
    from django_q.conf import logger  # noqa: PLC0415 - this module is also imported where Django is not set up
    from django_q.models import Schedule  # noqa: PLC0415

    from notifications.tasks import write_log  # noqa: PLC0415

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        logger.info("beside")
        write_log("beside\n")
        Schedule.objects.count()
        time.sleep(0.01)


def leave_child(seconds: float = 0.0) -> None:
    """Start a program that outlives the task, and one that it starts itself, in a session of its own."""
    child = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 1000 & echo $! $$; wait"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout
    note("children", *map(int, child.stdout.readline().split()))
    time.sleep(seconds)


def fork_and_reap() -> None:
    """Fork, next to other threads."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
