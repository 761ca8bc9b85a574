"""A failed attempt and its retry, of 1,000 tasks each with random texts: what stands in the log then."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_queue.task import running
from durable_queue.task.identifiers import new_task_id
from durable_queue.task.running import RunningTask
from notifications.log.log_file import LogFile
from notifications.tasks import identify
from tests.support import selection

pytestmark = selection.once

TASKS = 1_000
LETTERS = "ab\n \u4f60\U0001f600"  # few, so that texts are equal now and then

Step = tuple[str, bytes]


def random_texts(chance: random.Random) -> tuple[bytes, bytes, bytes]:
    """Three texts, some of them equal, one of them often a part of another."""
    one, two, three = ("".join(chance.choices(LETTERS, k=chance.randrange(1, 6))).encode() for _ in range(3))
    return one, chance.choice([two, one, one + two]), three


def append_twice(one: bytes, two: bytes, three: bytes) -> tuple[list[Step], list[Step], bytes]:
    """The same in both attempts."""
    steps = [("append", one), ("append", two)]
    return steps, steps, one + two


def replace_twice(one: bytes, two: bytes, three: bytes) -> tuple[list[Step], list[Step], bytes]:
    """The later one stays."""
    steps = [("replace", one), ("replace", two)]
    return steps, steps, two


def append_then_replace(one: bytes, two: bytes, three: bytes) -> tuple[list[Step], list[Step], bytes]:
    """Nothing is left of the first."""
    steps = [("append", one), ("replace", two)]
    return steps, steps, two


def replace_then_append(one: bytes, two: bytes, three: bytes) -> tuple[list[Step], list[Step], bytes]:
    """Both stay."""
    steps = [("replace", one), ("append", two)]
    return steps, steps, one + two


def another_branch(one: bytes, two: bytes, three: bytes) -> tuple[list[Step], list[Step], bytes]:
    """The first attempt writes two, the second one goes another way after the first of them."""
    more = [one, three].count(three) > [one, two].count(three)
    return [("append", one), ("append", two)], [("append", one), ("append", three)], one + two + (three if more else b"")


def another_replacement(one: bytes, two: bytes, three: bytes) -> tuple[list[Step], list[Step], bytes]:
    """A replacement of the second attempt that the first did not make."""
    return [("append", one), ("replace", two)], [("append", one), ("replace", b"other: " + three)], b"other: " + three


def replacement_by_what_was_appended(one: bytes, two: bytes, three: bytes) -> tuple[list[Step], list[Step], bytes]:
    """An append is no replacement, though the text is the same."""
    return [("append", one), ("append", two)], [("replace", one)], one


Shape = Callable[[bytes, bytes, bytes], tuple[list[Step], list[Step], bytes]]


@pytest.mark.parametrize(
    "shape",
    selection.slow_after(
        3,
        [
            append_twice,
            replace_twice,
            append_then_replace,
            replace_then_append,
            another_branch,
            another_replacement,
            replacement_by_what_was_appended,
        ],
    ),
    ids=lambda shape: shape.__name__,
)
def test_retry__leaves_what_both_attempts_asked_for(shape: Shape, tmp_path: Path) -> None:
    chance = random.Random(16)
    log = tmp_path / "log.txt"
    writer = LogFile(log, journal_path=tmp_path / "data" / "journal" / "log")
    for _ in range(TASKS):
        first, second, expected = shape(*random_texts(chance))
        log.unlink(missing_ok=True)
        task_id = new_task_id()
        for steps in (first, second, second):  # a failed attempt, its retry, and that once more after a lost COMMIT
            attempt = RunningTask(task_id)
            running.begin(attempt)
            for kind, text in steps:
                identity = identify(attempt, kind, text, None)
                getattr(writer, kind)(text, identity=identity, attempt=attempt)
            running.end(attempt)
        assert log.read_bytes() == expected, (first, second)
