"""The threads in which coroutines run functions that are no coroutines: of a bounded number, one for each task that asks."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any

from durable_queue.store import queue_connection
from durable_queue.task import limits, running
from durable_queue.task.limits import HEED, Limit
from durable_queue.work import task_connections
from durable_queue.work.attempt import RECEIVER_LIMIT
from durable_queue.work.crew import IDLE
from durable_queue.work.surroundings import Surroundings
from durable_queue.work.write_lock import Holder, WriteLock

Job = Callable[[], None]


class Pool:
    """The threads, and the tasks that wait for one."""

    def __init__(self, size: int, write_lock: WriteLock, surroundings: Surroundings) -> None:
        self.lock = threading.Lock()
        self.waiting: deque[TaskThread] = deque()
        self.write_lock = write_lock
        self.surroundings = surroundings
        self._size = size
        self._idle: list[_Thread] = []

    def take(self) -> "_Thread | None":
        """A thread, under the lock; None if all are taken. Raises RuntimeError if the system has no thread left."""
        if self._idle:
            return self._idle.pop()
        if not self._size:
            return None
        thread = _Thread(self)
        self._size -= 1
        return thread

    def give_back(self, thread: "_Thread") -> None:
        """Under the lock: a task needs its thread no more."""
        if self.waiting:
            self.waiting.popleft().receive(thread)
        else:
            self._idle.append(thread)

    def end(self, thread: "_Thread") -> bool:
        """Whether a thread that was idle for long may end."""
        with self.lock:
            if thread not in self._idle:
                return False
            self._idle.remove(thread)
            self._size += 1
            return True


class _Thread:
    """One thread of the pool."""

    def __init__(self, pool: Pool) -> None:
        self.holder = Holder()
        self.limit = Limit()
        self.jobs: SimpleQueue[Job] = SimpleQueue()
        self._pool = pool
        thread = threading.Thread(target=self._work, name="queries", daemon=True)
        running.adopt_thread(thread)
        try:
            thread.start()
        except RuntimeError:
            running.release_thread(thread)
            raise

    def _work(self) -> None:
        queue_connection.share()
        task_connections.join_worker()
        self._pool.surroundings.join()
        self.limit.join()
        self.holder = self._pool.write_lock.join()
        while True:
            try:
                job = self.jobs.get(timeout=IDLE)
            except Empty:
                if self._pool.end(self):
                    break
                continue
            job()
        self.limit.leave()
        self._pool.write_lock.leave(self.holder)
        task_connections.close_all()
        running.release_thread(threading.current_thread())


class TaskThread(Executor):
    """The thread of one task. While other tasks wait, it has none between two calls that leave no transaction open."""

    def __init__(self, pool: Pool, task: str) -> None:
        """`task`: its name."""
        self._pool = pool
        self._task = task
        self._thread: _Thread | None = None
        self._waiting: list[Job] = []  # until there is a thread
        self._submitted = 0  # jobs that have not ended

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` there. Its context is the caller's affair, as with any executor."""
        future: Future[Any] = Future()

        def job() -> None:
            if self._thread:
                self._thread.holder.task = self._task
            if future.set_running_or_notify_cancel():
                try:
                    result = limits.under(0.0, self._task, fn, *args, **kwargs)
                except BaseException as error:
                    self._end_job()
                    future.set_exception(error)
                    return
                self._end_job()
                future.set_result(result)
            else:
                self._end_job()

        with self._pool.lock:
            self._submitted += 1
            if self._thread is None and not self._waiting:
                self._thread = self._pool.take()
                if self._thread is None:
                    self._pool.waiting.append(self)
            if self._thread:
                self._thread.jobs.put(job)
            else:
                self._waiting.append(job)
        return future

    def receive(self, thread: _Thread) -> None:
        """Under the pool's lock: a thread that was waited for."""
        self._thread = thread
        for job in self._waiting:
            thread.jobs.put(job)
        self._waiting.clear()

    def _end_job(self) -> None:
        has_open = bool(self._pool.waiting) and task_connections.has_open_transaction()
        with self._pool.lock:
            self._submitted -= 1
            if self._pool.waiting and not self._submitted and not has_open:
                self._give_back()

    async def has_open_transaction(self) -> bool:
        """Whether the task is in a transaction."""
        if not self._has_thread or self._submitted:
            return False
        return await asyncio.wrap_future(self.submit(task_connections.has_open_transaction))

    @property
    def _has_thread(self) -> bool:
        """Whether it has a thread, or waits for one: it gives one back only when there is nothing to clean there."""
        return self._thread is not None or bool(self._waiting)

    async def clean(self, *, at_once: bool) -> bool:
        """Roll back what the task has left open, and let go of its connections. Returns whether the thread is free.

        What still runs there has some time to end, or none with `at_once`; then it is interrupted. A blocking call of C
        does not hear that, and keeps the thread.
        """
        if not self._has_thread:
            return True
        cleaned = asyncio.wrap_future(self.submit(self._clean))
        if not at_once and (await asyncio.wait({cleaned}, timeout=RECEIVER_LIMIT))[0]:
            return True
        if thread := self._thread:
            thread.limit.interrupt(thread.limit.current[0])
        if (await asyncio.wait({cleaned}, timeout=HEED))[0]:
            return True
        self._thread = None  # nobody gets it any more
        return False

    def _clean(self) -> None:
        self._pool.surroundings.restore()
        task_connections.clean()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The task has ended: its thread is free."""
        with self._pool.lock:
            if self in self._pool.waiting:
                self._pool.waiting.remove(self)
            self._give_back()

    def _give_back(self) -> None:
        thread, self._thread = self._thread, None
        if thread:
            self._pool.give_back(thread)
