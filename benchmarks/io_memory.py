"""Memory of the whole service when each of its threads has used the ORM and written a line, against the code before threads."""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import contestants as c
from benchmarks import effects, posts, usage
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario
from benchmarks.stage import Stage, stage
from benchmarks.worktrees import worktree

REVISION = "28e6661"  # the last one whose workers ran one task at a time
THREADS = 2 * 40
SECONDS = 0.5  # that a task waits, so that the next one gets another thread
TURNS = 4  # at most, of as many tasks as fill all threads twice
POSTS = 200
LIMIT = 60  # seconds for a turn

NOW = replace(c.NOTIFIER, title="Notifier, 2 x 40 threads")
BEFORE = replace(c.NOTIFIER, name="notifier-before", title=f"Notifier before threads ({REVISION})")


@dataclass(kw_only=True)
class Memory:
    """Measures both; the earlier revision is checked out when it is first needed."""

    _open: ExitStack = field(default_factory=ExitStack)
    _folder: Path | None = None

    def run(self, contestant: Contestant, _: bool) -> Sample:
        """Have all threads used, then measure."""
        threads = THREADS
        if contestant.name == BEFORE.name:
            threads, self._folder = 2, self._folder or self._open.enter_context(worktree(REVISION))
            contestant = replace(contestant, project=self._folder)
        with stage(contestant) as place, place.service() as port:
            idle = usage.memory_mib(place.pids)
            posted = posts.post(port, "/send-notification/{:07d}@example.com", count=POSTS)
            found = use(place, threads)
            figures = {"idle MiB": idle, "used MiB": usage.memory_mib(place.pids), "threads": found.threads}
        return Sample(figures=figures, seen=str(found), holds=found.each_once and posted.answered == POSTS)

    def close(self) -> None:
        """Remove the earlier revision."""
        self._open.close()


def use(place: Stage, threads: int) -> effects.Effects:
    """Run tasks until so many threads have had one."""
    turns, each = 0, 2 * threads
    while True:
        turns += 1
        place.client("slow", "whole", str((turns - 1) * each), str(each), str(SECONDS))
        found = effects.wait_for(place, turns * each, limit=LIMIT)
        if found.threads >= threads or turns == TURNS:
            return found


_memory = Memory()
MEMORY = Scenario(
    name="io-memory",
    title="memory of the whole service, when each thread of its workers has used the ORM and written a line",
    contestants=(NOW, BEFORE),
    run=_memory.run,
    close=_memory.close,
    figures={"idle MiB": ",.0f", "used MiB": ",.0f", "threads": ".0f"},
    goals=(Goal(figure="used MiB", ours=NOW, peers=(BEFORE,), at_most=1.3),),
    rounds=5,
    paired=True,
)
