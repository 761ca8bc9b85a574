"""notifications/api/showing.py: a task as JSON. Nothing that a result holds is run, and nothing of it is endless."""

import json
import pickle
from binascii import b2a_base64
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from durable_queue.states import State
from durable_queue.status import TaskStatus
from notifications.api import showing
from notifications.http import JSON
from tests.support import selection
from tests.support.unpickled import RAN, Runs

pytestmark = selection.once

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def a_status(result: object = None, **changes: Any) -> TaskStatus:
    """Of a task that has succeeded, but for the changes."""
    stored = b2a_base64(pickle.dumps(result), newline=False).decode()
    fields: dict[str, Any] = {
        "id": "0" * 32,
        "state": State.SUCCEEDED,
        "name": "alice",
        "func": "notifications.tasks.write_log",
        "queue": "notifier",
        "attempts": 1,
        "max_attempts": 10,
        "enqueued_at": NOON,
        "due_at": NOON,
        "started_at": NOON + timedelta(milliseconds=1.5),
        "finished_at": NOON + timedelta(milliseconds=4),
        "calls": 1,
        "calls_done": 1,
        "cancel_requested_at": None,
        "worker": "",
        "stored_result": stored,
        "error": "",
    }
    return TaskStatus(**fields | changes)


def shown(result: object) -> tuple[Any, bool]:
    """A result as clients see it: whatever it is, the answer can be sent."""
    task = showing.as_json(a_status(result))
    assert json.loads(JSON(task).content) == task
    return task["result"], task["result_is_repr"]


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1.5, 10**30, "", "naïve 🙂 \0 \u2028", [1, [2, []]], {"a": {"b": None}}],
    ids=ascii,
)
def test_result__json(value: object) -> None:
    assert shown(value) == (value, False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\xff\0", r"b'\xff\x00'"),
        ("half \ud800", r"'half \ud800'"),
        ({"\udfff": 1}, r"{'\udfff': 1}"),
        ((1, 2), "(1, 2)"),
        ({1: 2}, "{1: 2}"),
        ({"a"}, "{'a'}"),
        (float("nan"), "nan"),
        ([float("inf")], "[inf]"),
        (date(2026, 1, 2), "datetime.date(2026, 1, 2)"),
        (Runs(), "tests.support.unpickled._note_run()"),
        ([Runs()], "[tests.support.unpickled._note_run()]"),
    ],
    ids=lambda value: "Runs" if "Runs" in repr(value) else ascii(value),
)
def test_result__other_than_json(value: object, text: str) -> None:
    assert shown(value) == (text, True)
    assert not RAN


def test_result__within_bounds() -> None:
    most = "x" * (showing.LONGEST - 2)
    assert shown(most) == (most, False)
    text, is_repr = shown(most + "x")
    assert is_repr
    assert text.endswith("more characters")
    assert len(text) < showing.LONGEST
    assert len(shown("x" * 10_000_000)[0]) < showing.LONGEST


def test_result__of_many_parts() -> None:
    lists: Any = "x"
    for _ in range(30):
        lists = [lists] * 10
    assert shown(lists) == ("It has too many parts to be shown.", True)
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    assert shown(deep)[1] in (True, False)
    endless: list[Any] = []
    endless.append(endless)
    assert shown(endless)[1]


@pytest.mark.parametrize("stored", [None, "garbage", "gAWV", b2a_base64(b"cos\nsystem\n(S'true'\ntR.").decode()], ids=ascii)
def test_result__that_is_none_or_unreadable(stored: str | None) -> None:
    task = showing.as_json(a_status(stored_result=stored))
    assert json.loads(JSON(task).content) == task


def test_result__too_long_for_a_list() -> None:
    status = a_status("x" * showing.LONGEST_IN_LIST)
    assert showing.as_json(status, in_list=True)["result"] == showing.IN_LIST
    assert showing.as_json(status)["result"] == "x" * showing.LONGEST_IN_LIST
    assert showing.as_json(a_status("short"), in_list=True)["result"] == "short"


def test_task__succeeded() -> None:
    assert showing.as_json(a_status(None)) == {
        "id": "0" * 32,
        "status": "succeeded",
        "name": "alice",
        "attempts": 1,
        "max_attempts": 10,
        "enqueued_at": "2026-11-28T12:00:00.000000Z",
        "due_at": "2026-11-28T12:00:00.000000Z",
        "started_at": "2026-11-28T12:00:00.001500Z",
        "finished_at": "2026-11-28T12:00:00.004000Z",
        "wait_ms": 1.5,
        "run_ms": 2.5,
        "progress": {"done": 1, "of": 1},
        "cancel_requested_at": None,
        "result": None,
        "result_is_repr": False,
        "error": None,
    }


def test_task__not_begun() -> None:
    nothing = {"enqueued_at": None, "due_at": None, "started_at": None, "finished_at": None, "stored_result": None}
    task = showing.as_json(a_status(state=State.QUEUED, max_attempts=None, **nothing))
    assert task["status"] == "queued"
    assert {task[name] for name in (*nothing.keys() - {"stored_result"}, "wait_ms", "run_ms", "result", "max_attempts")} == {
        None
    }


def test_task__by_the_clocks_of_two_hosts() -> None:
    task = showing.as_json(a_status(started_at=NOON - timedelta(seconds=1), finished_at=NOON - timedelta(seconds=2)))
    assert (task["wait_ms"], task["run_ms"]) == (0.0, 0.0)


def test_moment__of_another_zone() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    assert showing.moment(datetime(2026, 1, 1, 1, tzinfo=there)) == "2025-12-31T19:30:00.000000Z"


@pytest.mark.parametrize("state", [State.FAILED, State.RETRYING, State.RUNNING, State.CANCELLED])
def test_error__of_the_last_attempt(state: State) -> None:
    task = showing.as_json(a_status("secret", state=state, error="ValueError: no"))
    assert (task["error"], task["result"]) == ("ValueError: no", None)
