"""Task ids, and what is signed under them."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django_q.signing import SignedPackage

from durable_queue.task import signing
from durable_queue.task.identifiers import new_task_id, queued_at


def test_new_task_id__is_a_uuid_of_version_7() -> None:
    made = uuid.UUID(new_task_id())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_new_task_id__sorts_in_the_order_of_making() -> None:
    made = []
    for _ in range(1000):
        made.append(new_task_id())
        while new_task_id()[:16] == made[-1][:16]:
            pass  # the clock's own step may be coarser than an id's
    assert made == sorted(made)
    assert len(set(made)) == 1000


def test_queued_at() -> None:
    before = datetime.now(UTC)
    at = queued_at(new_task_id())
    assert at is not None
    assert timedelta(milliseconds=-1) <= at - before < timedelta(seconds=1)


def test_queued_at__id_of_another_making() -> None:
    assert queued_at(uuid.uuid4().hex) is None
    assert queued_at("short") is None
    assert queued_at("no hex number, but a 7") is None
    assert queued_at("twelve chars7" + "." * 19) is None


PACKAGE = {"id": "1", "name": "n", "func": "f", "args": ("ä", b"\0"), "kwargs": {}}


def test_signing__is_what_django_q2_signs_and_reads() -> None:
    assert SignedPackage.loads(signing.dumps(PACKAGE)) == PACKAGE
    assert signing.loads(SignedPackage.dumps(PACKAGE)) == PACKAGE
    assert signing.loads(SignedPackage.dumps(PACKAGE, compressed=True)) == PACKAGE


@pytest.mark.parametrize("position", [0, 10, -1])
def test_signing__tampered_with(position: int) -> None:
    payload = list(signing.dumps(PACKAGE))
    payload[position] = "A" if payload[position] != "A" else "B"
    with pytest.raises(signing.BadSignature):
        signing.loads("".join(payload))
