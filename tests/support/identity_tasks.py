"""Tasks whose states somebody watches, and the watching: each moment's state must be one that can follow the last."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from durable_queue import retry
from durable_queue.states import State
from durable_queue.status import TaskStatus, statuses

T = "tests.support.identity_tasks."
WAITS = {State.SCHEDULED, State.QUEUED, State.RUNNING, State.RETRYING}
ENDED = {State.SUCCEEDED, State.FAILED, State.CANCELLED}

# What may follow a state, whatever nobody has seen in between. A task is never scheduled again, and its end is the end.
FOLLOW = {
    State.SCHEDULED: WAITS | ENDED,
    State.QUEUED: WAITS - {State.SCHEDULED} | ENDED,
    State.RUNNING: WAITS - {State.SCHEDULED} | ENDED,
    State.RETRYING: WAITS - {State.SCHEDULED} | ENDED,
    **{state: {state} for state in ENDED},
}


def rest(seconds: float) -> None:
    """Take a while."""
    time.sleep(seconds)


@retry(attempts=0, base=0.2, factor=1)
def fail_once(mark: str) -> None:
    """Fail at the first attempt."""
    if _is_first(mark):
        raise ValueError("the first time")


@retry(attempts=0, base=0.2, factor=1)
def die_once(mark: str) -> None:
    """Kill the worker at the first attempt."""
    if _is_first(mark):
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


@retry(attempts=1)
def fail_for_good() -> None:
    """Fail once and for all."""
    raise ValueError("as always")


def _is_first(mark: str) -> bool:
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Witness:
    """Looks at tasks again and again, and says what it has seen that can't be."""

    def __init__(self, task_ids: Sequence[str]) -> None:
        """The tasks are queued already."""
        self.looks = 0
        self.steps = Counter[tuple[State, State]]()
        self.seen: dict[str, list[TaskStatus]] = {task_id: [] for task_id in task_ids}

    def look(self) -> bool:
        """Look once; return whether all have ended."""
        found = statuses(list(self.seen))
        self.looks += 1
        for task_id, seen in self.seen.items():
            status = found.get(task_id)
            assert status, f"{task_id} is nowhere, after {seen[-1:]}"
            self._compare(seen[-1] if seen else None, status)
            if not seen or seen[-1] != status:
                seen.append(status)
        return all(status.state in ENDED for status in found.values())

    def watch(self, meanwhile: Callable[[], None] = lambda: None, *, seconds: float = 90.0) -> None:
        """Look every millisecond until all have ended."""
        deadline = time.monotonic() + seconds
        while not self.look():
            assert time.monotonic() < deadline, [seen[-1] for seen in self.seen.values() if seen[-1].state not in ENDED][:3]
            meanwhile()
            time.sleep(0.001)

    def _compare(self, before: TaskStatus | None, now: TaskStatus) -> None:
        if before is None or before == now:
            return
        if before.state is not now.state:
            self.steps[before.state, now.state] += 1
        assert now.state in FOLLOW[before.state], (before, now)
        assert (before.id, before.name, before.enqueued_at, before.calls) == (now.id, now.name, now.enqueued_at, now.calls)
        # A row that is given back unrun has begun no attempt.
        was_given_back = before.state is State.RUNNING and now.attempts == before.attempts - 1
        assert now.attempts >= before.attempts or was_given_back, (before, now)
        assert now.state is not State.SUCCEEDED or now.worker, now
        assert now.state is not State.RETRYING or (now.error and now.finished_at), now


def queue_all(count: int, folder: Path) -> list[str]:
    """Queue so many tasks, of all kinds; return their ids."""
    from django_q.tasks import async_task  # noqa: PLC0415 - workers import this module, too

    kinds: list[tuple[object, ...]] = [("rest", 0.0), ("rest", 0.8), ("fail_once",), ("fail_for_good",), ("die_once",)]
    task_ids = []
    for number in range(count):
        name, *arguments = kinds[number % 20 % 5 if number % 20 % 5 < 4 or number % 20 == 4 else 0]
        with_mark = [str(folder / f"mark-{number}")] if name in {"fail_once", "die_once"} else arguments
        task_ids.append(async_task(f"{T}{name}", *with_mark))
    return task_ids
