"""Tasks that write to the log as users' tasks do: they fail, branch, resume, repeat themselves, use threads and children."""

import asyncio
import multiprocessing
import os
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings

from durable_queue.task.calls import run_in_order
from durable_queue.task.running import current_task
from notifications.log.journal import TRIM_FROM
from notifications.tasks import write_log, write_notification


def marks() -> Path:
    """The folder where tasks leave marks for their next attempt."""
    path = Path(settings.DATA_DIR) / "marks"
    path.mkdir(parents=True, exist_ok=True)
    return path


def first_time(what: str) -> bool:
    """Whether the task in hand asks this for the first time, over all its attempts."""
    task = current_task.get()
    try:
        (marks() / f"{task.id if task else ''}-{what}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def fail_once() -> None:
    """Raise in the first attempt."""
    if first_time("failed"):
        raise RuntimeError("the first attempt fails")


# Branches, resumed work, other orders.


def write_and_fail_once(*texts: str) -> None:
    """Write the same texts in each attempt, and fail in the first."""
    for text in texts:
        write_log(text)
    fail_once()


def write_fail_write() -> None:
    """Fail between two writes."""
    write_log("one\n")
    fail_once()
    write_log("two\n")


def report_failure() -> None:
    """Take another branch in the second attempt than in the first."""
    try:
        fail_once()
    except RuntimeError:
        write_log("failed\n")
        raise
    write_log("done\n")


def resume(items: int, *, equal: bool = False, keyed: bool = False) -> None:
    """Go on where the first attempt stopped: before the third item."""
    for item in range(items):
        done = marks() / f"{_id()}-item-{item}"
        if done.exists():
            continue
        if item == 2:
            fail_once()
        write_log("sent\n" if equal else f"sent {item}\n", key=f"item {item}" if keyed else None)
        done.touch()


def shuffle(items: int) -> None:
    """Write the items in another order in each attempt, and fail somewhere in the first."""
    order = random.sample(range(items), items)
    fail_after = random.randrange(items)
    for place, item in enumerate(order):
        write_log(f"item {item}\n")
        if place == fail_after:
            fail_once()


def nest() -> None:
    """Call `run_in_order` inside of a call, after a write and before one."""
    write_log("before\n")
    run_in_order(("notifications.tasks.write_log", ("inside\n",), {}), ("notifications.tasks.write_log", ("inside\n",), {}))
    write_log("before\n")
    fail_once()


def write_time() -> None:
    """Write a text that changes in each attempt, then be killed in the first."""
    write_log(f"at {time.monotonic_ns()}\n", key="once")
    if first_time("killed"):
        os.kill(os.getpid(), signal.SIGKILL)


def use_key_twice() -> None:
    """Use a key for two texts: it is one write."""
    write_log("one\n", key="same")
    write_log("another\n", key="same")


def replace(*steps: str) -> None:
    """Do the steps: `+text` appends, `=text` replaces, `!` fails once."""
    for step in steps:
        if step == "!":
            fail_once()
        elif step[0] == "+":
            write_log(step[1:])
        else:
            write_notification("x", step[1:])


def replace_otherwise(first: list[str], second: list[str]) -> None:
    """Take one branch in the first attempt, which fails at its end, and another one in the second."""
    replace(*(second if (marks() / f"{_id()}-failed").exists() else [*first, "!"]))


# Concurrency.


def gather() -> None:
    """Make three writes that carry the task's context, in threads."""

    async def together() -> None:
        await asyncio.gather(*(asyncio.to_thread(write_log, f"{letter}\n") for letter in random.sample("abc", 3)))

    asyncio.run(together())
    fail_once()


async def gather_equal() -> None:
    """Make three writes of one text that carry the task's context, from a coroutine function."""
    await asyncio.gather(*(asyncio.to_thread(write_log, "same\n") for _ in range(3)))
    fail_once()


async def write_around_a_trim() -> None:
    """Write in a coroutine: Django refuses database queries in its thread."""
    write_log("before\n")
    write_log("x" * TRIM_FROM + "\n")
    write_log("after\n", key="after")


def in_threads(*, keyed: bool = False, stay: float = 0.0) -> None:
    """Write in three bare threads; with `stay`, that many seconds later, when the first attempt has ended."""

    def write(number: int) -> None:
        time.sleep(stay)
        write_log("thread\n", key=f"{number}" if keyed else None)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    if stay:
        fail_once()
    for thread in threads:
        thread.join()
    if not stay:
        fail_once()


def rest(seconds: float) -> None:
    """Keep the worker busy, in both attempts."""
    time.sleep(seconds)
    fail_once()


def in_thread_pool(*, keyed: bool = False) -> None:
    """Make eight writes in a pool of threads."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(partial(_write_one, keyed=keyed), range(8)))
    fail_once()


_shared: list[ThreadPoolExecutor] = []


def in_shared_pool(text: str) -> None:
    """Write in a pool that other tasks use too, under the same key."""
    if not _shared:
        _shared.append(ThreadPoolExecutor(1))
    _shared[0].submit(write_log, text, key="same").result()


_work: queue.SimpleQueue[str] = queue.SimpleQueue()
_done: queue.SimpleQueue[None] = queue.SimpleQueue()
_to_child: list[int] = []
_pool_lock = threading.Lock()


def in_hand_written_pool(kind: str, text: str) -> None:
    """Write in a thread or a forked child that the first task starts, and that other tasks use too, under the same key."""
    with _pool_lock:  # one at a time: an answer is for whoever has asked
        if kind == "thread":
            if not any(thread.name == "pool" for thread in threading.enumerate()):
                threading.Thread(target=_work_as_thread, name="pool", daemon=True).start()
            _work.put(text)
            _done.get(timeout=20)
        else:
            if not _to_child:
                _to_child[:] = _start_child()
            os.write(_to_child[0], text.encode())
            assert os.read(_to_child[1], 1)


def _work_as_thread() -> None:
    while True:
        write_log(_work.get(), key="same")
        _done.put(None)


def _start_child() -> tuple[int, int]:
    """Fork a child; return the descriptor to send it texts, and the one from which to read that it has written them."""
    (reads, tells), (hears, says) = os.pipe(), os.pipe()
    if not os.fork():
        os.close(tells)
        while text := os.read(reads, 1000):
            write_log(text.decode(), key="same")
            os.write(says, b".")
        os._exit(0)
    return tells, hears


def in_forks(*, keyed: bool = False) -> None:
    """Write one line in each of four forked processes, and one in this process."""

    def write(number: int) -> None:
        write_log(".\n", key=f"{number}" if keyed else None)

    _in_children(write, range(4))
    write(4)
    fail_once()


def in_process_pool(*, keyed: bool = False) -> None:
    """Make eight writes in a pool of forked processes."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(partial(_write_one, keyed=keyed), range(8))
        pool.close()
        pool.join()
    fail_once()


def in_executor_processes(*, keyed: bool = False) -> None:
    """Make eight writes in an executor of forked processes."""
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as pool:
        list(pool.map(partial(_write_one, keyed=keyed), range(8)))
    fail_once()


def _write_one(number: int, *, keyed: bool) -> None:
    write_log("pool\n", key=f"{number}" if keyed else None)


def _in_children(function: Callable[[int], None], numbers: Iterable[int]) -> None:
    children = []
    for number in numbers:
        child = os.fork()
        if not child:
            try:
                function(number)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _id() -> str:
    task = current_task.get()
    return task.id if task else ""


def write_of_hook(task: Any) -> None:
    """A hook that writes."""
    write_log("hook\n")


# Installations.


def write_until_allowed(text: str) -> None:
    """Write, then fail until the test has made the file "allowed"."""
    write_log(text)
    if not (marks() / "allowed").exists():
        raise RuntimeError("not yet")


def write_once_told(text: str) -> None:
    """Write as soon as the test has made the file "told"."""
    (marks() / f"waits-{os.uname().nodename}").touch()
    while not (marks() / "told").exists():
        time.sleep(0.01)
    write_log(text)


def write_much() -> None:
    """Write so much that the journal is trimmed."""
    write_log("x" * TRIM_FROM + "\n")


def write_once_told_then_wait(text: str) -> None:
    """In the data folder of version 0.1 (tests/fixtures) its worker was killed while it waited, after the write."""
    write_log(text)
