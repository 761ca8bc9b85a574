"""Find a task's queue row by its id. The table has no column for it; an index finds it within the payload.

A payload is the base64 of a pickled dict whose first key is "id". What pickle writes before the id takes 21 bytes, whatever
follows; so the first 30 characters of an id are always the payload's 29th to 68th.

The index and the queries must say it alike, numbers included (`Table.part`): SQLite passes over the index for one that is a
parameter, as Django's Substr() has it.
"""

from binascii import b2a_base64
from collections.abc import Collection

from durable_queue.store.table import Table
from durable_queue.task import signing

_TO_URL = bytes.maketrans(b"+/", b"-_")

LARGEST = 500  # ids in one statement


def part_of(task_id: str) -> str:
    """What stands at that place for a task id of 32 ASCII characters."""
    return b2a_base64(task_id[:30].encode(), newline=False).translate(_TO_URL).decode()


def has_id_in_place(payload: str) -> bool:
    """Whether the index finds a payload by its id."""
    # Protocol 5, and then: the end of a frame's length, a dict, "id", and the head of a text of 32 bytes.
    return payload[12:28] == "AAB9lCiMAmlklIwg" and payload.startswith("gAWV")


def with_id_in_place(payload: str) -> str:
    """The same task as a payload that the index finds; what can't be read, or has no such id, as it is. Never raises."""
    if has_id_in_place(payload):
        return payload
    try:
        task = signing.loads(payload)
        if isinstance(task, dict):
            signed = signing.dumps({"id": task["id"], **task})
            return signed if has_id_in_place(signed) else payload
    except BaseException:  # noqa: S110 - unpickling runs code of others; a worker will say what is wrong with it
        pass
    return payload


def ended(table: Table, task_ids: Collection[str]) -> set[str]:
    """Those of the ids (32 hexadecimal digits each) whose task is neither queued nor among the failed ones.

    A task counts as queued when its id has the first 30 characters of one that is. Raises django.db.Error.
    """
    ids = sorted(task_ids)  # neighbours are on the same pages of an index
    found: set[str] = set()
    for start in range(0, len(ids), LARGEST):
        # In one statement, and so one snapshot: between two, a task could go from one table to the other unseen.
        found.update(table.ended({task_id: part_of(task_id) for task_id in ids[start : start + LARGEST]}))
    return found
