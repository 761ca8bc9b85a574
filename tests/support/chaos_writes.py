"""How often each line has to stand in the log, by the tasks' notes: for the scenario `writes` of `scripts/chaos`.

This module does not know how the log tells writes apart. It only knows the promises of docs/exactly-once.md.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from durable_queue import BackgroundTasks
from tests.support import chaos_write_tasks as shapes
from tests.support.chaos_write_tasks import LONG, SHORT, Note, notes_of

# The calls of a task, what each is given, and how many such tasks there are beside one of the rarest.
SHAPES: list[tuple[list[Callable[..., Any]], dict[str, bool], int]] = [
    ([shapes.plain, shapes.plain], {}, 6),
    ([shapes.branch_by_mark], {}, 3),
    ([shapes.branch_at_random], {}, 3),
    ([shapes.resume], {"equal": True, "keyed": True}, 3),
    ([shapes.resume], {"equal": False, "keyed": False}, 1),
    ([shapes.resume], {"equal": True, "keyed": False}, 1),
    ([shapes.shuffle], {}, 3),
    ([shapes.repeat, shapes.repeat], {}, 4),
    ([shapes.die], {}, 1),
    ([shapes.stamp], {}, 3),
    ([shapes.mix], {}, 2),
    ([shapes.share, shapes.share], {}, 3),
    ([shapes.gather], {}, 1),
    ([shapes.fork], {}, 1),
]


def enqueue(count: int, *, first: int) -> list[str]:
    """Enqueue tasks of all shapes, numbered from `first`; return their ids."""
    mixed = list(chain.from_iterable(repeat((calls, options), share) for calls, options, share in SHAPES))
    chosen = [mixed[number % len(mixed)] for number in range(count)]
    random.shuffle(chosen)
    return [_enqueue(task, calls, options) for task, (calls, options) in enumerate(chosen, first)]


def _enqueue(task: int, calls: Sequence[Callable[..., Any]], options: dict[str, bool]) -> str:
    tasks = BackgroundTasks(name=f"task {task}")
    for index, call in enumerate(calls):
        tasks.add_task(call, task, **({"call": index} if len(calls) > 1 else options))
    return tasks.enqueue() or ""


def compare(count: int, log: Path) -> str:
    """Assert, once all writers have ended, that the log holds what the tasks were promised; return the figures."""
    expected = Expected()
    for task in range(count):
        expected.add(notes_of(task))
    lines = log.read_text().replace(LONG, SHORT).splitlines(keepends=True)
    expected.assert_stands(lines)
    return (
        f"{expected.ran_again} ran again, {expected.cut_short} writes were cut short; "
        f"{len(lines)} lines, {expected.keys} of them with keys: none lost, doubled or torn "
        f"(of {expected.most.total() - expected.least.total()} nobody can tell whether they should stand)"
    )


@dataclass
class Expected:
    """How often each line must and may stand in the log."""

    least: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    texts: set[str] = field(default_factory=set)  # each one that may stand, to the byte
    keys: int = 0
    ran_again: int = 0  # tasks
    cut_short: int = 0  # writes that an attempt asked for and did not come past

    def add(self, notes: Sequence[Note]) -> None:
        """Take in the notes of one task's attempts.

        With a key, the line stands once as soon as one attempt has completed the write. As long as none has, every
        attempt that asked for it was killed in it: the line stands once or not at all. If each attempt has another text,
        the line has one that was asked for before any attempt completed the write: later attempts find it written.

        Without a key, the n-th write of a text in a call is the same write in every attempt, and stands once, whichever
        attempt makes it. An attempt that completed n writes has made n different ones. Therefore the line stands at least
        as often as in the attempt that completed the most. An attempt that asked for n writes made none but the first n.
        Therefore the line stands at most as often as in the attempt that asked for the most. This holds for the writes of
        several threads too, in any order. The two numbers differ only if an attempt was killed in a write which no other
        attempt completed: by one, or by the number of threads, if all of them were writing.
        """
        asked, done = Counter[tuple[str, int, str]](), Counter[tuple[str, int, str]]()  # by attempt, call and line
        keyed: dict[str, str] = {}  # lines by keys
        past: set[str] = set()  # keys
        for note in notes:
            line = without_time(note.text)
            if note.key is None:
                (done if note.is_done else asked)[note.attempt, note.call, line] += 1
            elif note.is_done:
                past.add(note.key)
            else:
                keyed[note.key] = line
            if not note.is_done and note.key not in past:
                self.texts.add(note.text)
        self.least.update(greatest(done) + Counter(keyed[key] for key in past))
        self.most.update(greatest(asked) + Counter(keyed.values()))
        self.keys += len(keyed)
        self.ran_again += len({note.attempt for note in notes if note.call == 0}) > 1
        self.cut_short += sum(-1 if note.is_done else 1 for note in notes)

    def assert_stands(self, lines: Sequence[str]) -> None:
        """Fail if a line has a wrong text, is missing, or is one too many."""
        torn = set(lines) - self.texts
        assert not torn, f"torn, or not asked for in time: {len(torn)}, the first {[line[:100] for line in list(torn)[:3]]}"
        found = Counter(without_time(line) for line in lines)
        lost = {line: (found[line], least) for line, least in self.least.items() if found[line] < least}
        doubled = {line: (number, self.most[line]) for line, number in found.items() if number > self.most[line]}
        assert not lost, f"lost: {len(lost)} of {len(self.least)}, the first (found, expected) {list(lost.items())[:3]}"
        assert not doubled, (
            f"doubled: {len(doubled)} of {len(self.most)}, the first (found, expected) {list(doubled.items())[:3]}"
        )


def without_time(text: str) -> str:
    """The part of a line that it shares with the lines that other attempts write in its place."""
    return text.partition(" at ")[0].rstrip("\n")


def greatest(numbers: Counter[tuple[str, int, str]]) -> Counter[str]:
    """For each call the greatest number of any attempt; the sum over all calls."""
    most: dict[tuple[int, str], int] = {}
    for (_, call, line), number in numbers.items():
        most[call, line] = max(number, most.get((call, line), 0))
    total = Counter[str]()
    for (_, line), number in most.items():
        total[line] += number
    return total
