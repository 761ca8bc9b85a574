"""Tasks that run beside others in one worker: they wait, compute, ask who they are, and spoil things."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from asgiref.sync import sync_to_async
from django.db import connection, transaction

from durable_queue import alone, current_task
from tests.support.promised_tasks import note


def wait(seconds: float) -> dict[str, Any]:
    """Wait; return when, and where."""
    return _seen(time.sleep, seconds)


def compute(seconds: float) -> dict[str, Any]:
    """Use so many seconds of processor; return when, and where."""
    return _seen(_compute, seconds)


def _compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(1000))


def _seen(function: Any, seconds: float) -> dict[str, Any]:
    began, task = time.time(), current_task.get()
    function(seconds)
    still = current_task.get()
    return {
        "began": began,
        "ended": time.time(),
        "pid": os.getpid(),
        "is_main": threading.current_thread() is threading.main_thread(),
        "task": task.id if task and task is still else None,
    }


async def await_(seconds: float) -> dict[str, Any]:
    """Wait in a coroutine; return when, and where."""
    began, task = time.time(), current_task.get()
    await asyncio.sleep(seconds)
    seen = await sync_to_async(_seen)(time.sleep, 0)
    assert task
    return seen | {"began": began, "task": task.id if seen["task"] == task.id else None}


@alone
def wait_alone(seconds: float) -> dict[str, Any]:
    """Wait in a process where no other task runs."""
    return wait(seconds)


def wait_configured_alone(seconds: float) -> dict[str, Any]:
    """The same; a test's settings name it."""
    return wait(seconds)


def die(after: float = 0.0) -> NoReturn:
    """Kill the worker."""
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def die_once(after: float) -> str:
    """Kill the worker that runs it first."""
    time.sleep(after)
    if note_once("died"):
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def note_once(word: str) -> bool:
    """Note a word, if it is not noted yet; return whether it wasn't."""
    from tests.support.promised_tasks import read_notes  # noqa: PLC0415 - next to its use

    if [word] in read_notes():
        return False
    note(word)
    return True


def note_and_wait(word: str, seconds: float) -> str:
    """Note a word, then wait."""
    note(word)
    time.sleep(seconds)
    return word


def receive_for_ever() -> NoReturn:
    """Wait for what never comes."""
    one, other = socket.socketpair()
    one.recv(1)
    raise AssertionError(other)


def exit_politely() -> NoReturn:
    """Raise what no `except Exception` catches."""
    sys.exit(3)


async def exit_politely_in_coroutine() -> NoReturn:
    """The same in the event loop."""
    sys.exit(3)


async def exit_in_subtask() -> str:
    """Have a subtask of the event loop raise what ends the loop."""
    subtask = asyncio.create_task(exit_politely_in_coroutine())
    await asyncio.sleep(0.2)
    return "done" if subtask.done() else "not done"


async def cancel_itself() -> None:
    """Raise asyncio.CancelledError."""
    raise asyncio.CancelledError("by itself")


def hold_write_lock(seconds: float, name: str) -> None:
    """Write in a transaction that takes a while."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO mark (name) VALUES (%s)", [name])
        time.sleep(seconds)


def commit_for_ever() -> None:
    """Write two rows in each of many transactions."""
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("INSERT INTO mark (name) VALUES ('one')")
            cursor.execute("INSERT INTO mark (name) VALUES ('two')")


def write_for_ever(name: str) -> None:
    """Write a line after the other, and note how many, once interrupted."""
    from notifications.tasks import write_log  # noqa: PLC0415 - this module is also an app's

    written = 0
    try:
        while True:
            write_log(f"{name}: {written}\n")
            written += 1
    finally:
        note(name, written)


def leave_transaction_open() -> None:
    """Begin a transaction, write, and forget it."""
    transaction.atomic().__enter__()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO mark (name) VALUES ('left open')")


def leave_autocommit_off() -> None:
    """Write in a transaction that has no end."""
    transaction.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO mark (name) VALUES ('left open')")


def commit_without_autocommit() -> None:
    """Write in a transaction that ends, and leave the mode as it is."""
    transaction.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO mark (name) VALUES ('committed')")
    transaction.commit()


async def query_then_wait(seconds: float) -> None:
    """Query, then wait."""
    await sync_to_async(query)(0)
    await asyncio.sleep(seconds)


def begin_by_hand() -> None:
    """The same, in a way that Django knows nothing of."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO mark (name) VALUES ('left open')")


async def leave_transaction_open_in_coroutine() -> None:
    """The same, in the coroutine's thread."""
    await sync_to_async(leave_transaction_open)()


async def block_loop(seconds: float) -> None:
    """Keep the event loop from all others."""
    time.sleep(seconds)


def query(seconds: float) -> int:
    """Have the database take its time; return an identity of the connection."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_sleep(%s)", [seconds])
        else:
            cursor.execute("SELECT count(*) FROM mark")
            time.sleep(seconds)
    return id(connection.connection)


def query_in_threads() -> None:
    """The same, from threads of the task's own."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(query, [0.01] * 4))


async def query_and_wait(seconds: float) -> None:
    """Query, wait, and query again."""
    await sync_to_async(query)(0)
    await asyncio.sleep(seconds)
    await sync_to_async(query)(0)


async def query_in_coroutine(seconds: float) -> float:
    """The same, from a coroutine; return when it was done."""
    await sync_to_async(query)(seconds)
    return time.time()


def quick_hook(task: Any) -> None:
    """Note that it was called."""
    note("quick hook", task.id)


def exiting_hook(task: Any) -> NoReturn:
    """Raise what no `except Exception` catches."""
    sys.exit(task.id)


def slow_hook(task: Any) -> None:
    """Take a while after the task."""
    note("hook begins", task.id)
    time.sleep(1.5)
    note("hook ends", task.id)


def blocking_hook(task: Any) -> NoReturn:
    """Never come back, and hear of nothing."""
    note("hook hangs", task.id)
    receive_for_ever()


def hanging_hook(task: Any) -> NoReturn:
    """Never come back."""
    note("hook hangs", task.id)
    while True:
        time.sleep(0.1)


def write_keyed(text: str, seconds: float) -> None:
    """Write a line under a key, twice, and wait in between."""
    from notifications.tasks import write_log  # noqa: PLC0415 - this module is also an app's

    write_log(text, key="a")
    time.sleep(seconds)
    write_log(text, key="a")
    write_log(text, key="b")


class ExitsWhenPickled:
    """A result that ends the program when it is pickled."""

    def __reduce__(self) -> NoReturn:
        sys.exit(3)


def spoil_with_exit(items: list[Any]) -> None:
    """Put into an argument what ends the program when it is pickled."""
    items.append(ExitsWhenPickled())


def return_exit() -> ExitsWhenPickled:
    """Return one."""
    return ExitsWhenPickled()


async def cancel_itself_at_its_end() -> None:
    """End with a wish to be cancelled that nobody has heard yet."""
    await sync_to_async(time.sleep)(0)
    mine = asyncio.current_task()
    assert mine
    mine.cancel()


async def cancel_all() -> None:
    """Cancel what else runs in this event loop."""
    for other in asyncio.all_tasks() - {asyncio.current_task()}:
        other.cancel()


def close_descriptors() -> None:
    """Close what isn't its own."""
    os.closerange(3, 65536)


def fork_and_return() -> int:
    """Return twice: in the child, too."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return child


def write_in_child(text: str) -> None:
    """Have a forked child write a line under a key, then fail if it is the first attempt."""
    from notifications.tasks import write_log  # noqa: PLC0415 - this module is also an app's

    child = os.fork()
    if not child:
        write_log(text, key="of the child")
        os._exit(0)
    os.waitpid(child, 0)
    if note_once(f"failed {text.strip()}"):
        raise ValueError(text)
