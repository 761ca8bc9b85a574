"""The threads in which coroutines run what is no coroutine: one for each task that asks, of a bounded number."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any

from durable_queue.task import running
from durable_queue.work import task_connections
from durable_queue.work.crew import IDLE
from durable_queue.work.write_lock import Holder, WriteLock

Job = Callable[[], None]


class Pool:
    """The threads in which coroutines have run what is no coroutine. For the event loop's thread alone."""

    def __init__(self, size: int, write_lock: WriteLock) -> None:
        self.write_lock = write_lock
        self._size = size
        self._idle: list[_Thread] = []
        self._waiting: deque[TaskThread] = deque()
        self._lock = threading.Lock()

    def take(self, task: "TaskThread") -> "_Thread | None":
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

    def __init__(self, pool: Pool) -> None:
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


class TaskThread(Executor):
    """The thread of one task: one of the pool's, from the first time that the task needs it until the task ends."""

    def __init__(self, pool: Pool, task: str) -> None:
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
