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

from notifications.background import BackgroundTasks
from tests import chaos_write_tasks as shapes
from tests.chaos_write_tasks import LONG, SHORT, Note, notes_of

# The calls of a task, what each is given, and how many such tasks there are beside one of the rarest.
SHAPES: list[tuple[list[Callable[..., Any]], dict[str, bool], int]] = [
    ([shapes.plain, shapes.plain], {}, 6),
    ([shapes.branch_by_mark], {}, 3),
    ([shapes.branch_at_random], {}, 3),
    ([shapes.resume], {"equal": True, "keyed": True}, 3),
    ([shapes.resume], {"equal": False, "keyed": False}, 1),
    ([shapes.resume], {"equal": True, "keyed": False}, 1),
    ([shapes.shuffle], {}, 3),
    ([shapes.repeat], {}, 4),
    ([shapes.write_long], {}, 2),
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
    doubt = expected.most.total() - expected.least.total()
    return (
        f"{expected.ran_again} ran again, {expected.cut_short} writes were cut short; of {len(lines)} lines, {expected.keys} of them "
        f"with keys, none is lost, doubled or torn (of {doubt} nobody can say whether they have to stand)"
    )


@dataclass
class Expected:
    """How often each line has to stand in the log, and may."""

    least: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    texts: set[str] = field(default_factory=set)  # each one that may stand, to the byte
    keys: int = 0
    ran_again: int = 0  # tasks
    cut_short: int = 0  # writes that somebody asked for and did not come past

    def add(self, notes: Sequence[Note]) -> None:
        """Take in what one task has noted, by the rules of docs/exactly-once.md.

        With a key: once, as soon as an attempt is known to have come past the write. If none is, the task was killed in
        it, each time that it was asked for: then at most once. What stands is a text that was asked for before somebody
        came past: who asks later asks for what stands.

        Without a key, in one call: a text stands as often as the attempt that wrote it most often. How often an attempt
        wrote it is known but for the writes in which it was killed: one, or, where threads write at once, one of each
        thread. So the count is at least the greatest number of writes that an attempt has come past, and at most the
        greatest number that one has asked for. What is true of the one attempt with the most is enough, since the writes
        of the others are the same ones, from the first on: where threads write at once and are killed, not from the first
        on, but still among as many as were asked for. Both numbers are the same, unless the attempt that asked most often
        was killed in this very write and no other attempt came as far.
        """
        asked, done = Counter[tuple[str, int, str]](), Counter[tuple[str, int, str]]()
        keys: dict[str, tuple[str, bool]] = {}  # the line, and whether somebody came past it
        for note in notes:
            line = without_time(note.text)
            _, is_past = keys.get(note.key or "", (line, False))
            if note.key is None:
                (done if note.is_done else asked)[note.attempt, note.call, line] += 1
            else:
                keys[note.key] = line, is_past or note.is_done
            if not note.is_done and not is_past:
                self.texts.add(note.text)
            self.cut_short += -1 if note.is_done else 1
        self.least.update(greatest(done) + Counter(line for line, is_past in keys.values() if is_past))
        self.most.update(greatest(asked) + Counter(line for line, _ in keys.values()))
        self.keys += len(keys)
        self.ran_again += len({note.attempt for note in notes if note.call == 0}) > 1

    def assert_stands(self, lines: Sequence[str]) -> None:
        """Fail if a line is not as it was asked for, is missing, or is one too many."""
        torn = set(lines) - self.texts
        assert not torn, f"torn, or not asked for: {list(torn)[:3]}"
        found = Counter(without_time(line) for line in lines)
        lost = {line: (found[line], least) for line, least in self.least.items() if found[line] < least}
        doubled = {line: (number, self.most[line]) for line, number in found.items() if number > self.most[line]}
        assert not lost, f"lost: {len(lost)} of {len(self.least)}, the first {list(lost.items())[:3]}"
        assert not doubled, f"doubled: {len(doubled)} of {len(self.most)}, the first {list(doubled.items())[:3]}"


def without_time(text: str) -> str:
    """A line as the same in all attempts, for counting."""
    return text.partition(" at ")[0].rstrip("\n")


def greatest(numbers: Counter[tuple[str, int, str]]) -> Counter[str]:
    """How often each line was written (or asked for) by the attempt at each call that did so most often."""
    most: dict[tuple[int, str], int] = {}
    for (_, call, line), number in numbers.items():
        most[call, line] = max(number, most.get((call, line), 0))
    total = Counter[str]()
    for (_, line), number in most.items():
        total[line] += number
    return total
