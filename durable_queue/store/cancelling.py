"""End tasks that a user has asked to cancel and that no worker runs: those that wait, and those that go back to the queue.

While a worker holds a row, a request is only noted, under a lock on that row. Whoever gives a row back changes it first, and
looks for requests then: so none is missed, and nobody waits for one who waits for him.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from django.utils import timezone

from durable_queue.models import Cancellation, DeadLetter
from durable_queue.store import lookup, task_row
from durable_queue.store.leases import Row, Settlement, home_queue
from durable_queue.task import preview
from durable_queue.task.calls import path_today
from durable_queue.task.identifiers import queued_at
from durable_queue.task.pickled import part_of_payload
from durable_queue.task.text import storable

if TYPE_CHECKING:
    from durable_queue.store.broker import Broker


def reason_of(cancellation: Cancellation) -> str:
    """What the history says of a cancelled task."""
    text = storable(str(cancellation))
    return text[:1].upper() + text[1:]


def requests(task_ids: Collection[str], *, using: str) -> dict[str, Cancellation]:
    """The requests to cancel these tasks that nobody has heeded yet, by the tasks' ids. Raises django.db.Error."""
    found = Cancellation.objects.using(using).filter(pk__in=task_ids, heeded=None)
    return {cancellation.task_id: cancellation for cancellation in found}


def note_heeded(task_ids: Collection[str], *, using: str) -> None:
    """Note that these tasks have ended by a request. Raises django.db.Error."""
    if task_ids:
        Cancellation.objects.using(using).filter(pk__in=task_ids).update(heeded=timezone.now())


def end_retried(broker: "Broker", settled: Sequence[Settlement]) -> list[Settlement]:
    """Of settled rows, end those that this transaction has put back for another attempt, and that are to be cancelled."""
    asked = requests([settlement.task["id"] for settlement in settled if settlement.retry_at], using=broker.using)
    ended = []
    for settlement in settled:
        request = asked.get(settlement.task["id"]) if settlement.retry_at else None
        if request and task_row.take_out(broker.table, settlement.row.id):
            task = settlement.task | {"result": reason_of(request)}
            # Without a function it was not read, and the history lacks its arguments: then its payload is kept.
            settlement = settlement._replace(  # noqa: PLW2901
                task=task, retry_at=None, payload=None, refused="func" not in task, cancelled=True
            )
        ended.append(settlement)
    return ended


def end_unrun(broker: "Broker", given_back: Iterable[Row]) -> list[Settlement]:
    """Of rows that this transaction has given back, end those that are to be cancelled. `broker`: of their queue."""
    rows = {task_id: row for row in given_back if (task_id := lookup.id_in_place(row.payload))}
    asked = requests(rows, using=broker.using)
    ended = [(rows[task_id], request) for task_id, request in asked.items()]
    ended = [(row, request) for row, request in ended if task_row.take_out(broker.table, row.id)]
    return settle_unrun(broker, [cancelled(row, request, queue=broker.queue) for row, request in ended])


def settle_unrun(broker: "Broker", ended: list[Settlement]) -> list[Settlement]:
    """Write the history of tasks that have ended without an attempt, and whose rows are gone; do what follows.

    Their payloads are kept: so each goes back as it was if somebody retries it. The history lacks some of its options, and what
    would be made of that again and again would grow each time.
    """
    if ended:
        kept = [settlement for settlement in ended if settlement.saves_result]
        broker.table.save_history([settlement.history() for settlement in kept])
        for settlement in kept:
            keep_dead_letter(broker, settlement)
        note_heeded([settlement.task["id"] for settlement in ended], using=broker.using)
        if broker.follow_up:
            broker.follow_up(broker, ended)
    return ended


def cancelled(row: Row, request: Cancellation, *, queue: str) -> Settlement:
    """The settlement of a cancelled row that no attempt was made at. Nothing is unpickled: a preview reads it."""
    shown, now = preview.read(row.payload), timezone.now()
    task = {
        "name": f"unreadable: queue row {row.id}",
        "path": "?",
        "args": (),
        "kwargs": {},
        **({} if shown.problem else _read(row.payload, shown)),
        "id": request.task_id,
        "cluster": home_queue(queue),
        "started": now,
        "stopped": now,
        "result": reason_of(request),
        "success": False,
    }
    queued = shown.options.get("started")
    queued = None if queued_at(request.task_id) else queued if isinstance(queued, datetime) else row.due
    return Settlement(row=row, task=task, cancelled=True, begun=False, queued=queued)


def _read(payload: str, shown: preview.Preview) -> dict[str, object]:
    options = {name: value for name, value in shown.options.items() if type(value) in (str, int, float, bool)}
    if hook := preview.path_of(shown.options.get("hook")):
        options["hook"] = hook
    return options | {
        "name": shown.name,
        "path": path_today(shown.func),
        "args": part_of_payload(payload, "args", shown.args),
        "kwargs": part_of_payload(payload, "kwargs", shown.kwargs),
    }


def keep_dead_letter(broker: "Broker", settlement: Settlement) -> None:
    """Keep the payload of a task that can't be read, or was not. Raises django.db.Error."""
    DeadLetter.objects.using(broker.using).create(
        task_id=settlement.task["id"],
        queue=home_queue(broker.queue),
        payload=settlement.row.payload,
        reason=settlement.task["result"],
        at=settlement.task["stopped"],
    )
