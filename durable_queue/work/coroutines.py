"""Tasks that are coroutine functions: many at once on one event loop, in a thread of the worker's own.

Each has a `ThreadSensitiveContext` of its own (asgiref/sync.py): its queries, and what else it runs by `sync_to_async`, run in
a thread that is its own meanwhile. The number of these threads is bounded (coroutine_threads.py).
"""

import asyncio
import contextvars
import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from asgiref.sync import ThreadSensitiveContext
from django_q.conf import logger

from durable_queue.store.leases import Settlement
from durable_queue.task import running
from durable_queue.work.attempt import LATE, Attempt
from durable_queue.work.coroutine_threads import Pool, TaskThread
from durable_queue.work.progress import Progress

BLOCKED = 1.0  # seconds for which a coroutine may keep the event loop from the others, before it is named


class Coroutines:
    """The coroutines that a worker runs."""

    def __init__(
        self,
        limit: int,
        threads: int,
        progress: Progress,
        pool: Pool,
        finish: Callable[[Attempt, Settlement], None],
    ) -> None:
        """`limit`: how many may run at once. `threads`: how many of these may be in threads at once.

        Their slots in `progress` come after as many for threads. `finish` is called in the event loop's thread; it must
        neither wait nor raise.
        """
        self._slots = list(range(threads + limit - 1, threads - 1, -1))
        self._progress = progress
        self._finish = finish
        self._pool = pool
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: deque[tuple[Attempt, int, contextvars.Context]] = deque()
        self._lock = threading.Lock()
        self._tasks: dict[asyncio.Task[None], Attempt] = {}
        self._asked = self._answered = 0.0  # when (monotonic) the event loop was asked for a sign of life, and when it gave one
        self._named: object = None  # the task that blocks it, once it was named

    @property
    def free(self) -> int:
        """How many more may be started."""
        return 0 if self._named or self._pool.waiting else len(self._slots)

    def start(self, attempt: Attempt) -> None:
        """Run an attempt that was read. Any thread may call this, if one is free."""
        with self._lock:  # the lead may have been passed on while an attempt was read
            loop = self._loop or self._start_loop()
            number = self._slots.pop()
            self._starting.append((attempt, number, attempt.hand_to_loop(self._progress.slot(number))))
            # If there are others, the loop is about to start them, and looks again. Asked only now: it takes no lock.
            is_only = len(self._starting) == 1
        if is_only:
            loop.call_soon_threadsafe(self._start_all)

    def _start_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._run_loop, args=(loop,), name="coroutines", daemon=True)
        running.adopt_thread(thread)
        thread.start()
        self._loop = loop
        return loop

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        self._pool.surroundings.join()
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
            except BaseException:  # a task's own subtask has called sys.exit …
                logger.exception("The event loop goes on after an error")

    def _start_all(self) -> None:
        while self._starting:
            attempt, number, context = self._starting[0]
            task = asyncio.get_running_loop().create_task(self._run(attempt), context=context)
            self._tasks[task] = attempt  # the loop itself keeps no task alive
            task.add_done_callback(functools.partial(self._end, attempt, number))
            self._starting.popleft()

    async def _run(self, attempt: Attempt) -> None:
        thread = TaskThread(self._pool, attempt.task["name"])
        try:
            async with ThreadSensitiveContext(executor=thread):
                await attempt.arun(thread.has_open_transaction)
            attempt.has_left_thread = not await thread.clean(at_once=attempt.was_interrupted)
        finally:
            thread.shutdown()

    def _end(self, attempt: Attempt, number: int, task: asyncio.Task[None]) -> None:
        """It has ended, or was cancelled by another task at any moment, even before it began."""
        self._tasks.pop(task, None)
        if not self._tasks:
            with suppress(OSError):  # a task has closed the descriptor: the next one in a thread says so
                self._pool.surroundings.restore()
        error = asyncio.CancelledError("by another task") if task.cancelled() else task.exception()
        settlement = attempt.settlement or attempt.settle_error(error or RuntimeError("It ended without an outcome"))
        self._slots.append(number)
        self._finish(attempt, settlement)

    def look(self, now: float) -> None:
        """See, from another thread, whether a coroutine keeps the event loop from the others. `now`: monotonic.

        Once it is over its limit, the others are held up by it: they are not charged for what they can't help.
        """
        if self._loop is None:
            return
        if self._answered >= self._asked:
            self._asked = now
            self._loop.call_soon_threadsafe(self._answer)
        if now - self._asked < BLOCKED or not (task := asyncio.current_task(self._loop)):
            self._named = None
            return
        blocking = self._tasks.get(task)
        if task is not self._named:
            self._named = task
            what = f"{blocking.task['name']!r}" if blocking else f"A subtask, {task.get_name()},"
            logger.warning("%s has blocked the event loop for %.1f s: no other coroutine can run", what, now - self._asked)
        attempts = [*self._tasks.values(), *(attempt for attempt, *_ in list(self._starting))]
        if any(attempt.is_overdue(now + LATE) for attempt in attempts):
            for attempt in attempts:
                if attempt is not blocking and not attempt.is_overdue(self._asked + LATE):
                    attempt.slot.hold_up()

    def _answer(self) -> None:
        self._answered = time.monotonic()
        if self._named:
            for attempt in self._tasks.values():
                attempt.slot.go_on()
