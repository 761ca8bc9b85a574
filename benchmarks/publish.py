"""Keeps results: benchmarks/results.json, the chart in docs/, and the tables in docs/performance.md."""

import json
from collections.abc import Iterable
from typing import Any

from benchmarks import chart
from tests.support.processes import PROJECT

RESULTS = PROJECT / "benchmarks" / "results.json"
CHART = PROJECT / "docs" / "benchmark.svg"
PAGE = PROJECT / "docs" / "performance.md"
BEGIN, END = "<!-- results: scripts/bench --publish -->", "<!-- end of results -->"


def publish(content: dict[str, Any], order: Iterable[str]) -> None:
    """Put these results in the place of older ones of the same scenarios, and all in this order."""
    older = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"versions": {}, "scenarios": {}}
    scenarios = older["scenarios"] | content["scenarios"]
    content = {
        **content,
        "versions": older["versions"] | content["versions"],
        "scenarios": {name: scenarios[name] for name in order if name in scenarios},
    }
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    CHART.write_text(chart.svg(content["scenarios"]))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{_tables(content)}\n\n{END}{after}")


def _tables(content: dict[str, Any]) -> str:
    machine, versions = content["machine"], content["versions"]
    about = f"{machine['processor'].strip()}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}"
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if isinstance(version, str))
    parts = [f"{about}; {shown}. The packages of each environment are in benchmarks/results.json."]
    for name, scenario in content["scenarios"].items():
        parts += [f"### {name}: {scenario['title']}", f"Measured {scenario['at']}.", scenario["table"], scenario["reached"]]
    return "\n\n".join(part for part in parts if part)
