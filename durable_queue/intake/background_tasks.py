"""FastAPI's BackgroundTasks, made durable: the calls of one request become one task."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone
from django_q.models import Task

from durable_queue.intake import idempotency, packaging
from durable_queue.intake.packaging import Packed
from durable_queue.store.keys import Key
from durable_queue.task.calls import IN_ORDER, Call, path_of

NAME_LENGTH = Task._meta.get_field("name").max_length or 100


@dataclass(kw_only=True)
class BackgroundTasks:
    """The calls that a request leaves behind. A worker runs them in order.

    As in FastAPI, `add_task` only notes a call. `enqueue` then commits all calls to the queue as one task, or none of them:

        tasks = BackgroundTasks(name="welcome alice")
        tasks.add_task(send_mail, "alice@example.com", subject="Welcome")
        tasks.enqueue()
    """

    name: str = ""
    calls: list[Call] = field(default_factory=list)

    def add_task(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Note a call of `func(*args, **kwargs)`; the arguments must be picklable.

        Raises TypeError for a function that a worker could not find again: a lambda, a nested function, a bound method, or a
        function of `__main__`, which is another module in a worker.
        """
        self.calls.append((path_of(func), args, kwargs))

    def enqueue(self) -> str | None:
        """Commit the calls to the queue as one task; return its id, or None if there are no calls.

        Inside a transaction the task is committed or rolled back with that transaction. Raises django.db.Error if the queue
        can't be written to, and TypeError, pickle.PicklingError, AttributeError … if an argument can't be pickled. Then
        nothing is enqueued.
        """
        return packaging.enqueue(*self.as_one_call(), name=self.title()) if self.calls else None

    async def aenqueue(self, key: Key | None = None) -> str | None:
        """The same for an `async` view. The group commit of this event loop takes the task into its transaction.

        With a key (`durable_queue.intake.idempotency.key_of`) a request that is repeated queues nothing, and gets the id of
        the task that it has queued before. Raises KeyReusedError if that was another request.
        """
        if not self.calls:
            return None
        if key is None:
            return await packaging.aenqueue(*self.as_one_call(), name=self.title())
        (task_id,) = await idempotency.aenqueue([self.packed()], key)
        return task_id

    def packed(self) -> Packed:
        """The calls as one task that is ready to be enqueued. Raises what `enqueue` raises, but for django.db.Error."""
        return packaging.packed(*self.as_one_call(), name=self.title(), options={}, queued=timezone.now())

    def as_one_call(self) -> Call:
        """The calls as one, which makes each of them in its turn. There must be one at least."""
        if len(self.calls) == 1:
            return self.calls[0]
        return IN_ORDER, tuple(self.calls), {}

    def title(self) -> str:
        """The task's name: its own or those of its functions, cut to what a name may have."""
        name = self.name or ", ".join(path.rpartition(".")[2] for path, _, _ in self.calls)
        return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"
