"""A task that goes from the queue to the history and back, while a test looks."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from django.db import connection, connections, transaction
from django_q.models import OrmQ, Task

from durable_queue.store.databases import table_of


@contextmanager
def moving(payload: str, fail: Callable[[], object]) -> Iterator[None]:
    """Meanwhile another thread has the only task fail and retries it, again and again. Raises what it raises.

    `payload`: of the task, which is queued. `fail`: writes its row in the history.
    """
    is_over = threading.Event()

    def fail_and_retry() -> None:
        try:
            while not is_over.is_set():
                with transaction.atomic():
                    OrmQ.objects.all().delete()
                    fail()
                with transaction.atomic():
                    Task.objects.all().delete()
                    table_of(connection).insert("notifier", [payload])
        finally:
            connections.close_all()

    with ThreadPoolExecutor() as another:
        going = another.submit(fail_and_retry)
        try:
            yield
        finally:
            is_over.set()
        going.result(20)
