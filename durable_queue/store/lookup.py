"""Find a task's queue row by the task's id. The table has no column for the id; an index finds it within the payload.

A payload is the base64 of a pickled dict whose first key is "id". Pickle writes 21 bytes before the id, whatever follows.
Therefore the first 30 characters of an id always take the 29th to the 68th character of the payload.

The index and the queries must use the very same expression, numbers included (`Table.part`). SQLite ignores the index if a
number is a parameter, and Django's Substr() makes it one.
"""

from binascii import a2b_base64, b2a_base64
from collections.abc import Collection

from durable_queue.store.rows import QUEUE_TABLE
from durable_queue.store.table import Table
from durable_queue.task import signing
from durable_queue.task.identifiers import BadIdError, is_task_id

_TO_URL = bytes.maketrans(b"+/", b"-_")

LARGEST = 500  # ids in one statement


def part_of(task_id: str) -> str:
    """The 40 characters that stand at that place of a payload, for a task id of 32 ASCII characters."""
    return b2a_base64(task_id[:30].encode(), newline=False).translate(_TO_URL).decode()


def has_id_in_place(payload: str) -> bool:
    """Whether the index finds this payload by its task's id."""
    # Pickle's protocol 5; then the end of a frame's length, a dict, "id", and the header of a string of 32 bytes.
    return payload[12:28] == "AAB9lCiMAmlklIwg" and payload.startswith("gAWV")


def id_in_place(payload: str) -> str | None:
    """The id of a payload's task, by the bytes at its place; None if there is none. The signature is not looked at."""
    if not has_id_in_place(payload):
        return None
    try:
        found = a2b_base64(payload[28:72].replace("-", "+").replace("_", "/"))[:32]  # the id's 32 bytes, and one more
    except ValueError:  # it is cut off, or garbage
        return None
    return found.decode("latin-1")


def with_id_in_place(payload: str) -> str:
    """The same task in a payload that the index finds. A payload that can't be read stays as it is.

    Raises BadIdError for a task whose id is none.
    """
    if has_id_in_place(payload):
        task_id = id_in_place(payload)
        if task_id is not None and not is_task_id(task_id):
            raise BadIdError(task_id)
        return payload  # one that is cut off, or garbage, is for a worker to refuse
    try:
        task = signing.loads(payload)
        if not isinstance(task, dict):
            return payload
        signed = signing.dumps({"id": task["id"], **task})
    except BaseException:  # unpickling runs any code; a worker will record the error
        return payload
    if not is_task_id(task["id"]):
        raise BadIdError(task["id"])
    return signed


def is_queued(table: Table, task_id: str) -> bool:
    """Whether the task with this id (32 hexadecimal digits) is in the queue. Raises django.db.Error.

    One with the same first 30 characters counts, too.
    """
    sql = f"SELECT 1 FROM {QUEUE_TABLE} WHERE {table.part} = %s LIMIT 1"  # noqa: S608
    return bool(table.run(sql, (part_of(task_id),)))


def ended(table: Table, task_ids: Collection[str]) -> set[str]:
    """The ids (32 hexadecimal digits each) of the tasks that are neither queued nor failed.

    A task also counts as queued if a queued task's id has the same first 30 characters. Raises django.db.Error.
    """
    ids = sorted(task_ids)  # neighbours stand on the same pages of an index
    found: set[str] = set()
    for start in range(0, len(ids), LARGEST):
        # One statement sees one snapshot. Between two, a task could move from one table to the other, unseen by both.
        found.update(table.ended({task_id: part_of(task_id) for task_id in ids[start : start + LARGEST]}))
    return found
