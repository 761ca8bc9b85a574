"""Tasks that are coroutine functions: many at once on one event loop, in a thread of the worker's own.

Each has a `ThreadSensitiveContext` of its own (asgiref/sync.py): its queries, and what else it runs by `sync_to_async`, run in
one thread that no other task uses until it ends. The number of these threads is bounded; a task waits until one is free.
"""

import asyncio
import contextvars
import functools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django_q.conf import logger

from durable_queue.store.leases import Settlement
from durable_queue.task import running
from durable_queue.work import task_connections
from durable_queue.work.attempt import Attempt
from durable_queue.work.crew import IDLE
from durable_queue.work.progress import Progress
from durable_queue.work.write_lock import Holder, WriteLock

Job = Callable[[], None]


class Coroutines:
    """The coroutines that a worker runs."""

    def __init__(
        self,
        limit: int,
        threads: int,
        progress: Progress,
        write_lock: WriteLock,
        finish: Callable[[Attempt, Settlement], None],
    ) -> None:
        """`limit`: how many may run at once. `threads`: how many of these may be in threads at once.

        Their slots in `progress` come after as many for threads. `finish` is called in the event loop's thread; it must
        neither wait nor raise.
        """
        self._slots = list(range(threads + limit - 1, threads - 1, -1))
        self._progress = progress
        self._finish = finish
        self._pool = _Pool(threads, write_lock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: deque[tuple[Attempt, int, contextvars.Context]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def free(self) -> int:
        """How many more may be started."""
        return len(self._slots)

    def start(self, attempt: Attempt) -> None:
        """Run an attempt that was read. One thread at a time may call this, and only if one is free."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            thread = threading.Thread(target=self._run_loop, args=(self._loop,), name="coroutines", daemon=True)
            running.adopt_thread(thread)
            thread.start()
        number = self._slots.pop()
        self._starting.append((attempt, number, attempt.hand_to_loop(self._progress.slot(number))))
        if len(self._starting) == 1:
            self._loop.call_soon_threadsafe(self._start_all)

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
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
            self._tasks.add(task)  # the loop itself keeps none
            task.add_done_callback(functools.partial(self._end, attempt, number))
            self._starting.popleft()

    async def _run(self, attempt: Attempt) -> None:
        thread = _TaskThread(self._pool, attempt.task["name"])
        async with ThreadSensitiveContext() as context:
            SyncToAsync.context_to_thread_executor[context] = thread
            await attempt.arun()
            await thread.clean()

    def _end(self, attempt: Attempt, number: int, task: asyncio.Task[None]) -> None:
        """It has ended, or was cancelled by another task at any moment, even before it began."""
        self._tasks.discard(task)
        error = asyncio.CancelledError("by another task") if task.cancelled() else task.exception()
        settlement = attempt.settlement or attempt.settle_error(error or RuntimeError("It ended without an outcome"))
        self._slots.append(number)
        self._finish(attempt, settlement)


class _Pool:
    """The threads in which coroutines have run what is no coroutine. For the event loop's thread alone."""

    def __init__(self, size: int, write_lock: WriteLock) -> None:
        self.write_lock = write_lock
        self._size = size
        self._idle: list[_Thread] = []
        self._waiting: deque[_TaskThread] = deque()
        self._lock = threading.Lock()

    def take(self, task: "_TaskThread") -> "_Thread | None":
        """A thread for a task; none if all are taken: then the task is given the next one that is free."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._size:
                self._size -= 1
                return _Thread(self)
            self._waiting.append(task)
            return None

    def give_back(self, thread: "_Thread") -> None:
        """A task has ended whose thread this was."""
        with self._lock:
            task = self._waiting.popleft() if self._waiting else None
            if task is None:
                self._idle.append(thread)
        if task:
            task.receive(thread)

    def end(self, thread: "_Thread") -> bool:
        """Whether a thread that was idle for long may end."""
        with self._lock:
            if thread not in self._idle:
                return False
            self._idle.remove(thread)
            self._size += 1
            return True


class _Thread:
    """One thread of the pool."""

    def __init__(self, pool: _Pool) -> None:
        self.holder = Holder()
        self.jobs: SimpleQueue[Job] = SimpleQueue()
        self._pool = pool
        thread = threading.Thread(target=self._work, name="queries", daemon=True)
        running.adopt_thread(thread)
        thread.start()

    def _work(self) -> None:
        self.holder = self._pool.write_lock.join()
        while True:
            try:
                job = self.jobs.get(timeout=IDLE)
            except Empty:
                if self._pool.end(self):
                    break
                continue
            job()
        self._pool.write_lock.leave(self.holder)
        task_connections.close_all()
        running.release_thread(threading.current_thread())


class _TaskThread(Executor):
    """The thread of one task: one of the pool's, from the first time that the task needs it until the task ends."""

    def __init__(self, pool: _Pool, task: str) -> None:
        """`task`: its name."""
        self._pool = pool
        self._task = task
        self._thread: _Thread | None = None
        self._waiting: list[Job] = []
        self._has_asked = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` there. Its context is the caller's affair, as with any executor."""
        future: Future[Any] = Future()

        def job() -> None:
            if self._thread:
                self._thread.holder.task = self._task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        if not self._has_asked:
            self._has_asked = True
            self._thread = self._pool.take(self)
        if self._thread:
            self._thread.jobs.put(job)
        else:
            self._waiting.append(job)
        return future

    def receive(self, thread: _Thread) -> None:
        """A thread that was waited for."""
        self._thread = thread
        for job in self._waiting:
            thread.jobs.put(job)

    async def clean(self) -> None:
        """Roll back what the task has left open, and let go of its connections."""
        if self._has_asked:
            await asyncio.wrap_future(self.submit(task_connections.clean))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The task has ended: its thread is free."""
        if self._thread:
            self._pool.give_back(self._thread)
            self._thread = None
