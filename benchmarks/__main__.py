"""`scripts/bench`: run scenarios, contestants in turn, several times; print tables, write JSON, draw the chart."""

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import (
    accept,
    drain,
    environments,
    growth,
    io_drain,
    io_lines,
    io_memory,
    io_post,
    io_settled,
    latency,
    memory,
    publish,
    report,
    servers,
    start,
    waiting,
)
from benchmarks.contestants import NOTIFIER, PEERS
from benchmarks.scenario import Results, Scenario
from benchmarks.stage import stage
from tests.support.processes import PROJECT

PROFILE = PEERS / "notifier" / "profile.py"
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        drain.SQLITE,
        drain.POSTGRESQL,
        drain.JOURNAL,
        latency.SQLITE,
        latency.POSTGRESQL,
        accept.ACCEPT,
        accept.ACCEPT_AND_WRITE,
        waiting.WAITING,
        growth.SQLITE,
        growth.POSTGRESQL,
        memory.MEMORY,
        start.START,
        io_post.THREADS,
        io_post.COROUTINES,
        io_drain.THREADS,
        io_drain.MIXED,
        io_drain.COMPUTE,
        io_drain.LONG_COMPUTE,
        io_lines.LINES,
        io_settled.SETTLED,
        io_memory.MEMORY,
    )
}
DEFAULTS = [name for name, scenario in SCENARIOS.items() if scenario.by_default]
GROUPS = {"io": [name for name in DEFAULTS if name.startswith("io-")]}


def main() -> int:
    """Run what was asked for; return the exit code: 1 when a line was lost or doubled."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing that was started is left behind
    if arguments.profile:
        profile()
        return 0
    named = [name for word in arguments.scenario for name in GROUPS.get(word, [word])]
    chosen = [SCENARIOS[name] for name in dict.fromkeys(named or DEFAULTS)]
    environments.install(contestant for scenario in chosen for contestant in scenario.contestants)
    found = []
    for scenario in chosen:
        results = run(scenario, quick=arguments.quick, rounds=arguments.rounds, only=arguments.only)
        found.append(results)
        print(f"\n## {scenario.name}: {scenario.title}\n\n{report.table(results)}\n\n{report.goal_lines(results)}", flush=True)
    content = report.as_json(found, {"quick": arguments.quick, "machine": machine(), "versions": versions(chosen)})
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{arguments.output}")
    if arguments.publish:
        publish.publish(content, SCENARIOS)
    return int(not all(sample.holds for r in found for name, ss in r.samples.items() if "notifier" in name for sample in ss))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    named, but = ", ".join(SCENARIOS), ", ".join(set(SCENARIOS) - set(DEFAULTS))
    parser.add_argument(
        "scenario", nargs="*", help=f"which ones ({named}); io: all that begin so; by default, and for io, all but {but}"
    )
    parser.add_argument("--quick", action="store_true", help="small numbers and few rounds: a look, not a measurement")
    parser.add_argument("--rounds", type=int, help="how often each contestant runs")
    parser.add_argument("--only", action="append", help="only this contestant, by its name; may be given several times")
    parser.add_argument("--output", type=Path, default=PROJECT / "var" / "bench" / "results.json", help="where JSON goes")
    parser.add_argument("--profile", action="store_true", help="instead: where a POST's and a task's microseconds go")
    parser.add_argument("--publish", action="store_true", help="keep the results in benchmarks/ and docs/")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenario) - set(SCENARIOS) - set(GROUPS):
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join([*SCENARIOS, *GROUPS])}")
    return arguments


def run(scenario: Scenario, *, quick: bool, rounds: int | None, only: list[str] | None) -> Results:
    """Run a scenario: A B C A B C …, or A B C C B A …, so that what the machine does meanwhile meets everybody."""
    results = Results(scenario=scenario)
    try:
        _run(results, quick=quick, rounds=rounds, only=only)
    finally:
        scenario.close()
    return results


def _run(results: Results, *, quick: bool, rounds: int | None, only: list[str] | None) -> None:
    scenario = results.scenario
    for number in range(rounds or (scenario.quick_rounds if quick else scenario.rounds)):
        backwards = scenario.paired and number % 2
        for contestant in reversed(scenario.contestants) if backwards else scenario.contestants:
            if only and contestant.name not in only:
                continue
            sample = scenario.run(contestant, quick)
            results.samples.setdefault(contestant.name, []).append(sample)
            figures = ", ".join(
                f"{name} {sample.figures[name]:{form}}" for name, form in scenario.figures.items() if name in sample.figures
            )
            line = f"{scenario.name} {number + 1}: {contestant.title}: {figures}; {sample.seen}"
            print(f"{time.strftime('%X')} {line}", file=sys.stderr, flush=True)


def profile() -> None:
    """Print where Notifier spends its processor time."""
    for what, count in (("post", 20_000), ("task", 40_000)):
        with stage(NOTIFIER) as place:
            print(f"\n{what}, microseconds of processor time:\n\n{place.client(what, str(count), script=PROFILE)}", flush=True)


def machine() -> dict[str, Any]:
    """Where this ran."""
    processor = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        processor = next((line.split(": ")[1] for line in info.read_text().splitlines() if "model name" in line), processor)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"processor": processor, "cores": os.cpu_count(), "memory_gib": round(memory), "kernel": platform.release()}


def versions(scenarios: list[Scenario]) -> dict[str, Any]:
    """What ran: by environment, the packages in it."""
    contestants = {contestant.folder: contestant for scenario in scenarios for contestant in scenario.contestants}
    found: dict[str, Any] = {"python": platform.python_version(), **servers.versions()}
    return found | {folder: environments.versions(contestant) for folder, contestant in contestants.items()}


if __name__ == "__main__":
    sys.exit(main())
