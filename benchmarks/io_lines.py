"""What a line costs in the log's writer, from forty threads and from one: processor time, one writer in one process."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import contestants as c
from benchmarks import writes
from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Sample, Scenario

FORTY = replace(c.NOTIFIER, name="notifier-40-threads", title="40 threads")
ONE = replace(c.NOTIFIER, name="notifier-1-thread", title="1 thread")
MEASURES: dict[str, Callable[[Path], float]] = {FORTY.name: writes.append_in_threads, ONE.name: writes.append}
COUNT = 20_000  # that each of them writes


def run(contestant: Contestant, _: bool) -> Sample:
    """Write lines."""
    with tempfile.TemporaryDirectory(prefix="notifier-bench-lines-") as folder:
        cost = MEASURES[contestant.name](Path(folder))
        written = Path(folder, "log.txt").read_bytes().count(writes.TEXT)
    return Sample(figures={"CPU µs": cost}, seen=f"{written:,} lines of {COUNT:,}", holds=written == COUNT)


LINES = Scenario(
    name="io-lines",
    title="a line in the log, from 40 threads and from one",
    contestants=(FORTY, ONE),
    run=run,
    figures={"CPU µs": ",.1f"},
    goals=(Goal(figure="CPU µs", ours=FORTY, peers=(ONE,), at_most=1.5),),
    rounds=5,
    paired=True,
)
