"""Jobs that take their time. Each leaves an effect: a line that says which it was, where it ran, and when."""

import asyncio
import os
import threading
import time

EFFECT = "{:>8} {:08d} {:>10} {:>10} {:.6f} {:.6f}\n"  # job, number, process, thread, beginning, end
LENGTH = len(EFFECT.format("", 0, 0, 0, time.time(), time.time()))


def leave(job: str, number: int, began: float) -> None:
    """Leave the effect of a job that ends now."""
    line = EFFECT.format(job, number, os.getpid(), threading.get_native_id(), began, time.time())
    with open(os.environ["BENCH_EFFECTS"], "a", encoding="utf-8") as effects:
        effects.write(line)


def quick(number: int, _: float) -> None:
    """Takes no time."""
    leave("quick", number, time.time())


def wait(number: int, seconds: float) -> None:
    """Wait in a thread, as for a mail server."""
    began = time.time()
    time.sleep(seconds)
    leave("wait", number, began)


async def await_(number: int, seconds: float) -> None:
    """Wait in an event loop."""
    began = time.time()
    await asyncio.sleep(seconds)
    leave("await", number, began)


def compute(number: int, turns: float) -> None:
    """Compute in pure Python."""
    began = time.time()
    spin(int(turns))
    leave("compute", number, began)


def spin(turns: int) -> int:
    """Do so much work, however long it takes."""
    value = 0
    for turn in range(turns):
        value = (value + turn) % 1_000_003
    return value


JOBS = {"quick": quick, "wait": wait, "await": await_, "compute": compute}
