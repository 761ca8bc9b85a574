"""How often each line has to stand in the log, by what the tasks have noted: for the scenario `writes` of `scripts/chaos`.

Nothing here knows how a write is told from another one. It knows what docs/exactly-once.md promises.
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


def enqueue(count: int) -> list[str]:
    """Queue tasks of all shapes; return their ids."""
    mixed = list(chain.from_iterable(repeat((calls, options), share) for calls, options, share in SHAPES))
    chosen = [mixed[number % len(mixed)] for number in range(count)]
    random.shuffle(chosen)
    return [_enqueue(task, calls, options) for task, (calls, options) in enumerate(chosen)]


def _enqueue(task: int, calls: Sequence[Callable[..., Any]], options: dict[str, bool]) -> str:
    tasks = BackgroundTasks(name=f"task {task}")
    for index, call in enumerate(calls):
        tasks.add_task(call, task, **({"call": index} if len(calls) > 1 else options))
    return tasks.enqueue() or ""


def compare(count: int, log: Path) -> str:
    """Assert that the log holds what the tasks were promised, once nobody writes to it any more; return the figures."""
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
    """How often each line has to stand in the log, and may."""

    least: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    texts: set[str] = field(default_factory=set)  # each one that may stand, to the byte
    keys: int = 0
    ran_again: int = 0  # tasks
    cut_short: int = 0  # writes that an attempt asked for and did not come past

    def add(self, notes: Sequence[Note]) -> None:
        """Take in what the attempts at one task have noted.

        With a key, the line stands once, as soon as one attempt has come past the write. As long as none has, all that
        asked for it were killed in it: once or not at all. Which text it is, when each attempt has another one: one that
        was asked for before anybody came past. Who asks later finds it written.

        Without a key, the n-th write of a text in a call is the same write in every attempt, and stands once, whoever of
        them makes it. An attempt that came past n writes has made n different ones: so the line stands at least as often
        as the attempt says that came past the most. An attempt that asked for n writes made none but the first n: so it
        stands at most as often as the attempt says that asked for the most. That holds for the writes of several threads
        too, in whichever order they are made. The two numbers differ only if that attempt was killed in a write which no
        other one came past, by one; by the number of threads, if all were writing.
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
        """Fail if a line is not as it was asked for, is missing, or is one too many."""
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
    """What a line has in common with those that other attempts write in its place."""
    return text.partition(" at ")[0].rstrip("\n")


def greatest(numbers: Counter[tuple[str, int, str]]) -> Counter[str]:
    """Of each call the number of the attempt that has the greatest one; of all calls the sum."""
    most: dict[tuple[int, str], int] = {}
    for (_, call, line), number in numbers.items():
        most[call, line] = max(number, most.get((call, line), 0))
    total = Counter[str]()
    for (_, line), number in most.items():
        total[line] += number
    return total
