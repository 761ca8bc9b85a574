"""Results for people and for programs: a table of figures and ratios, JSON."""

import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.contestants import Contestant
from benchmarks.scenario import Goal, Results


def table(results: Results) -> str:
    """A scenario's medians, the first contestant's in multiples of each other's, and what the checks saw."""
    scenario = results.scenario
    ours, *_ = scenario.contestants
    rows = [["", *scenario.figures, "lines"]]
    for contestant in scenario.contestants:
        row = [contestant.title]
        for figure, form in scenario.figures.items():
            value, first = results.median(contestant, figure), results.median(ours, figure)
            shown = "" if value is None else format(value, form) + _range(results, contestant, figure)
            compared = contestant is not ours and figure in scenario.compared and value and first
            row.append(f"{shown} ({_times(results, contestant, figure):,.2f} x)" if compared else shown)
        rows.append([*row, _seen(results, contestant)])
    return "\n".join("| " + " | ".join(row) + " |" for row in _ruled(rows))


def _times(results: Results, contestant: Contestant, figure: str) -> float:
    """The first contestant's figure in multiples of another's, which is not 0."""
    ours = results.scenario.contestants[0]
    if results.scenario.paired:
        return statistics.median(results.ratios(ours, [contestant], figure, more_is_better=True))
    value, first = results.median(contestant, figure), results.median(ours, figure)
    return first / value if first and value else 0.0


def _range(results: Results, contestant: Contestant, figure: str) -> str:
    """From the lowest to the highest, where it is shown."""
    values, form = results.values(contestant, figure), results.scenario.figures[figure]
    if not results.scenario.paired or len(values) < 2:  # noqa: PLR2004 - one is no range
        return ""
    return f" [{min(values):{form}} to {max(values):{form}}]"


def _ruled(rows: list[list[str]]) -> Iterator[list[str]]:
    yield rows[0]
    yield ["---"] * len(rows[0])
    yield from rows[1:]


def _seen(results: Results, contestant: Contestant) -> str:
    samples = results.samples.get(contestant.name, [])
    wrong = [sample.seen for sample in samples if not sample.holds]
    return "; ".join(wrong) or (samples[-1].seen if samples else "")


def goals(results: Results) -> Iterator[dict[str, Any]]:
    """Each goal, the figure that was reached, and whether that is enough."""
    for goal in results.scenario.goals:
        if (reached := _ratio(results, goal)) is not None:
            least, most = goal.at_least, goal.at_most
            rounds = _by_round(results, goal) if results.scenario.paired else []
            yield {
                "goal": _name(goal),
                "at_least": least,
                "at_most": most,
                "measured": round(reached, 3),
                **({"lowest": round(min(rounds), 3), "highest": round(max(rounds), 3)} if rounds else {}),
                "reached": (least is None or reached >= least) and (most is None or reached <= most),
            }


def _ratio(results: Results, goal: Goal) -> float | None:
    ours = results.median(goal.ours, goal.figure)
    if ours is None or not goal.peers:
        return ours
    if results.scenario.paired:
        return statistics.median(rounds) if (rounds := _by_round(results, goal)) else None
    theirs = [value for peer in goal.peers if (value := results.median(peer, goal.figure)) is not None]
    if not theirs:
        return None
    return ours / (max(theirs) if goal.at_least is not None else min(theirs))


def _by_round(results: Results, goal: Goal) -> list[float]:
    if not goal.peers:
        return results.values(goal.ours, goal.figure)
    return results.ratios(goal.ours, goal.peers, goal.figure, more_is_better=goal.at_least is not None)


def _name(goal: Goal) -> str:
    peers = " and ".join(peer.title for peer in goal.peers)
    return f"{goal.figure} of {goal.ours.title}" + (f" against {peers}" if peers else "")


def goal_lines(results: Results) -> str:
    """The goals in words."""
    found = []
    for goal in goals(results):
        bound = f"at least {goal['at_least']}" if goal["at_least"] is not None else f"at most {goal['at_most']}"
        span = f" ({goal['lowest']:g} to {goal['highest']:g})" if "lowest" in goal else ""
        verdict = "reached" if goal["reached"] else "NOT REACHED"
        found.append(f"- {goal['goal']}: {goal['measured']:g}{span}, {bound}: {verdict}")
    return "\n".join(found)


def as_json(all_results: Iterable[Results], about: dict[str, Any]) -> dict[str, Any]:
    """All of it."""
    at = time.strftime("%Y-%m-%d %H:%M")
    return {
        **about,
        "scenarios": {
            results.scenario.name: {
                "title": results.scenario.title,
                "at": at,
                "table": table(results),
                "reached": goal_lines(results),
                "medians": {
                    contestant.name: {
                        "title": contestant.title,
                        **{figure: results.median(contestant, figure) for figure in results.scenario.figures},
                        "lines": _seen(results, contestant),
                    }
                    for contestant in results.scenario.contestants
                    if contestant.name in results.samples
                },
                "samples": {name: [s.figures for s in samples] for name, samples in results.samples.items()},
                "goals": list(goals(results)),
            }
            for results in all_results
        },
    }
