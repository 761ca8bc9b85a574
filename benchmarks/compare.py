"""`scripts/compare`: measure this tree against another revision of it, in pairs; print the ratios, write JSON.

The two run one right after the other, pair after pair, and take turns in going first: whatever else the machine does meets
both. "Within N %" is the median of the pairs' ratios, this tree's figure to the other's; their range tells what it is worth.
No peer runs, and none is installed.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.__main__ import SCENARIOS, machine
from benchmarks.scenario import Sample
from benchmarks.worktrees import commit_of, git, worktree
from tests.support.processes import PROJECT, running

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Runs in either tree, and uses of its `benchmarks` what every revision has: their command line would install peers first.
DRIVER = """
import json, signal, sys
from pathlib import Path

import benchmarks
from benchmarks.__main__ import SCENARIOS, run

def contestants():
    return {name: [c.name for c in scenario.contestants if c.folder == "notifier"] for name, scenario in SCENARIOS.items()}

def measure(scenario, contestant, quick):
    results = run(SCENARIOS[scenario], quick=quick == "quick", rounds=1, only=[contestant])
    [sample] = results.samples[contestant]
    return {"figures": dict(sample.figures), "seen": sample.seen, "holds": sample.holds}

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing that was started is left behind
tree, answer, function, *arguments = sys.argv[1:]
if (project := Path(benchmarks.__file__).parent.parent) != Path(tree):
    sys.exit(f"The code in {project} would have run, and not that in {tree}")
Path(answer).write_text(json.dumps({"contestants": contestants, "measure": measure}[function](*arguments)))
"""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A checkout of the project, with an environment in its .venv."""

    name: str
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ".venv" / "bin" / "python"

    def ask(self, *words: str) -> Any:
        """Call a function of the driver's with this tree's code; return its answer.

        What decides whose code runs is PYTHONPATH, and -P keeps the current folder out of it. The driver finds this tree's
        `benchmarks` there, which put their own PROJECT into the PYTHONPATH, the command lines and the working folder of all
        that they start. The driver makes sure that the code is this tree's. PIP_NO_INDEX: should a tree's scripts/serve find
        that its requirements aren't what .venv has, then it fails, rather than change an environment that both may share.
        """
        with tempfile.TemporaryDirectory(prefix="notifier-compare-") as temporary:
            answer, output = Path(temporary, "answer.json"), Path(temporary, "output.txt")
            command = [str(self.python), "-P", "-c", DRIVER, str(self.folder), str(answer), *words]
            env = {"PYTHONPATH": str(self.folder), "PIP_NO_INDEX": "1"}
            # In a group of its own, and so not hit by a Ctrl-C: it is told to stop, and waited for.
            with running(command, env=env, output=output, cwd=self.folder) as process:
                if process.wait():
                    raise SystemExit(f"{self.name}: {' '.join(words)} failed:\n{output.read_text()[-3000:]}")
            return json.loads(answer.read_text())

    def compile(self) -> None:
        """Compile its packages, so that its first run has no more to do than the later ones."""
        packages = [path.parent for path in self.folder.glob("*/__init__.py")]
        subprocess.run([self.python, "-m", "compileall", "-qq", *packages], check=False)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One run in each tree."""

    this: Sample
    other: Sample


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A figure of one contestant's over all pairs. None is what a tree doesn't have, and a ratio when the other's are all 0."""

    figure: str
    this: float | None  # medians
    other: float | None
    ratio: float | None
    lowest: float | None
    highest: float | None
    pairs: int  # how many have a ratio


@dataclass(kw_only=True)
class Subject:
    """What is compared: a contestant in a scenario."""

    scenario: str
    contestant: str
    pairs: list[Pair]

    @property
    def title(self) -> str:
        """For people."""
        titles = {contestant.name: contestant.title for contestant in SCENARIOS[self.scenario].contestants}
        return f"{self.scenario}: {titles[self.contestant]}"

    def measure(self, this: Tree, other: Tree, *, quick: bool) -> None:
        """One pair more; every second one begins with the other tree."""
        samples = {}
        for tree in (this, other) if len(self.pairs) % 2 == 0 else (other, this):
            answer = tree.ask("measure", self.scenario, self.contestant, "quick" if quick else "")
            sample = samples[tree.name] = Sample(**answer)
            figures = ", ".join(f"{name} {self.show(name, value)}" for name, value in sample.figures.items())
            line = f"{self.title} {len(self.pairs) + 1}: {tree.name}: {figures}; {sample.seen}"
            print(f"{time.strftime('%X')} {line}", file=sys.stderr, flush=True)
        self.pairs.append(Pair(this=samples[this.name], other=samples[other.name]))

    def show(self, figure: str, value: float | None) -> str:
        """A figure as its scenario prints it."""
        return "" if value is None else format(value, SCENARIOS[self.scenario].figures.get(figure, ",.2f"))

    def comparisons(self) -> Iterator[Comparison]:
        """Each figure that either tree has."""
        for figure in dict.fromkeys(name for pair in self.pairs for name in (*pair.this.figures, *pair.other.figures)):
            both = [(pair.this.figures.get(figure), pair.other.figures.get(figure)) for pair in self.pairs]
            ratios = [ours / theirs for ours, theirs in both if ours is not None and theirs]
            yield Comparison(
                figure=figure,
                this=_median([ours for ours, _ in both if ours is not None]),
                other=_median([theirs for _, theirs in both if theirs is not None]),
                ratio=_median(ratios),
                lowest=min(ratios, default=None),
                highest=max(ratios, default=None),
                pairs=len(ratios),
            )

    def faults(self) -> list[str]:
        """Where lines were lost or doubled."""
        runs = [(number, name, getattr(pair, name)) for number, pair in enumerate(self.pairs, 1) for name in ("this", "other")]
        return [f"pair {number}, {name}: {sample.seen}" for number, name, sample in runs if not sample.holds]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def main() -> int:
    """Compare what was asked for; return the exit code: 1 when a line was lost or doubled, in either tree."""
    arguments = _parse()
    for number in STOPS:
        signal.signal(number, _stop)
    with revision_tree(arguments.revision) as other:
        this = Tree(name="this tree", folder=PROJECT)
        changed = ", changed" if git("status", "--porcelain") else ""
        about = {"this": git("log", "-1", "--format=%h") + changed, "other": other.name, "quick": arguments.quick, **_now()}
        chosen = subjects(arguments.scenario, arguments.only, this, other)
        for tree in (this, other):
            tree.compile()
        for subject in chosen:
            for _ in range(arguments.pairs):
                subject.measure(this, other, quick=arguments.quick)
                write(arguments.output, chosen, about)  # after each, for the case that it is stopped
            print(f"\n## {subject.title}: {about['this']} (this) against {other.name}\n\n{table(subject)}\n", flush=True)
    print(arguments.output)
    return int(any(subject.faults() for subject in chosen))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/compare", description=__doc__)
    parser.add_argument("revision", metavar="REVISION", help="what to compare with: HEAD, HEAD~3, a tag, a hash")
    parser.add_argument("scenario", metavar="SCENARIO", nargs="+", help=f"one or several of {', '.join(SCENARIOS)}")
    parser.add_argument("--pairs", type=int, default=7, help="how often each tree runs (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small numbers: a look, not a measurement")
    parser.add_argument("--only", action="append", help="only this contestant, by its name; may be given several times")
    parser.add_argument("--output", type=Path, default=PROJECT / "var" / "bench" / "compare.json", help="where JSON goes")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenario) - set(SCENARIOS):
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    if arguments.pairs < 1:
        parser.error("at least one pair is needed")
    return arguments


def _stop(number: int, _frame: object) -> NoReturn:
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)  # what tidies up is not interrupted
    sys.exit(128 + number)


def _now() -> dict[str, Any]:
    return {"at": time.strftime("%Y-%m-%d %H:%M"), "machine": machine()}


@contextmanager
def revision_tree(revision: str) -> Iterator[Tree]:
    """A revision, checked out for as long as it is needed."""
    commit = commit_of(revision)
    name = git("log", "-1", "--format=%h", commit)
    with worktree(commit) as folder:
        yield Tree(name=name if commit.startswith(revision) else f"{revision} ({name})", folder=folder)


def subjects(scenarios: list[str], only: list[str] | None, this: Tree, other: Tree) -> list[Subject]:
    """Notifier's own contestants in the scenarios, as far as both trees have them."""
    ours, theirs = this.ask("contestants"), other.ask("contestants")
    found = []
    for scenario in scenarios:
        common = [name for name in ours[scenario] if name in theirs.get(scenario, ()) and (not only or name in only)]
        if not common:
            known = f"{ours[scenario]} here, {theirs.get(scenario, [])} in {other.name}"
            raise SystemExit(f"{scenario}: there is nothing that both trees have: {known}")
        found += [Subject(scenario=scenario, contestant=name, pairs=[]) for name in common]
    return found


def table(subject: Subject) -> str:
    """A line for each figure, and one for each run whose lines weren't all there once."""
    rows = [["", "this", "other", "this / other", "range", "pairs"], ["---"] * 6]
    for found in subject.comparisons():
        medians = [subject.show(found.figure, value) for value in (found.this, found.other)]
        ratio = ["", ""] if found.ratio is None else [f"{found.ratio:.3f}", f"{found.lowest:.3f} to {found.highest:.3f}"]
        rows.append([found.figure, *medians, *ratio, str(found.pairs)])
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), *(f"- {fault}" for fault in subject.faults())])


def write(output: Path, chosen: list[Subject], about: dict[str, Any]) -> None:
    """Keep all that there is so far as JSON."""
    content = [
        {
            "scenario": subject.scenario,
            "contestant": subject.contestant,
            "figures": [asdict(comparison) for comparison in subject.comparisons()],
            "faults": subject.faults(),
            "pairs": [asdict(pair) for pair in subject.pairs],
        }
        for subject in chosen
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**about, "compared": content}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
