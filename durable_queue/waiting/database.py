"""What the database tells of those that are awaited."""

from binascii import b2a_base64

from django.db import connections
from django.db.models import Q, QuerySet
from django_q.conf import Conf
from django_q.models import OrmQ, Task

from durable_queue.store import lookup
from durable_queue.store.databases import table_of
from durable_queue.store.rows import LENGTHS, text_of

MOST = 100_000  # rows of the queue that are searched for a group: more take too long for somebody who looks again and again
LONGEST = 255  # bytes of a group's name that is searched for: pickle writes longer ones in another way


def alias() -> str:
    """The database of the queue and its history, by its alias: both must be seen in one and the same."""
    return str(Conf.ORM or "default")


def history() -> QuerySet[Task]:
    """The tasks that have ended and are kept."""
    return Task.objects.using(alias())  # type: ignore[no-any-return]


def of_group(group: object) -> QuerySet[Task]:
    """Those of a group, by its name as the history keeps it."""
    return history().filter(group=text_of(group, LENGTHS["group"]))


def is_queued(task_id: str) -> bool:
    """Whether the task with this id (32 hexadecimal digits) is in the queue. Raises django.db.Error."""
    return lookup.is_queued(table_of(connections[alias()]), task_id)


def may_have_queued(group: str) -> bool:
    """Whether a task of this group may be in the queue. If the queue is too long to tell, it may. Raises django.db.Error.

    The queue has no column for the group. But its payloads are the base64 of what pickle makes of a task, and that holds the
    name as it is, behind its length, in one of three places relative to base64's groups of three bytes. That another text
    of a task is the same only has somebody wait for longer.
    """
    name = group.encode("utf-8", "surrogatepass")
    rows = OrmQ.objects.using(alias())
    if len(name) > LONGEST or rows.order_by("pk").values_list("pk")[MOST : MOST + 1]:
        return True
    found = Q()
    for fragment in fragments(b"\x8c" + bytes([len(name)]) + name + b"\x94"):  # pickletools: SHORT_BINUNICODE, MEMOIZE
        found |= Q(payload__contains=fragment)
    return bool(rows.filter(found).exists())


def fragments(content: bytes) -> list[str]:
    """The parts of any base64 (RFC 4648, section 5) that show some bytes, whatever stands around them: one for each place."""
    found = []
    for before in range(3):
        text = b2a_base64(b"\0" * before + content, newline=False).decode().replace("+", "-").replace("/", "_")
        # A character holds 6 bits: from the first that holds no bit of what stands before, to the last that has none of after.
        found.append(text[-(-8 * before // 6) : 8 * (before + len(content)) // 6])
    return found
