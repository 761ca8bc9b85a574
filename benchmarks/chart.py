"""One chart of the medians, as SVG: a panel of bars for each of some figures. Reads in the light and in the dark."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

# Scenario, figure, what the panel says.
PANELS = (
    ("drain", "drained/s", "Queued lines written a second, 2 workers (more is better)"),
    ("drain-postgresql", "drained/s", "The same on PostgreSQL (more is better)"),
    ("accept-and-write", "accepted/s", "POSTs accepted and written a second, on 2 cores (more is better)"),
    ("latency", "p50 ms", "Idle: milliseconds from queueing to the line in the file, median (less is better)"),
    ("io-post-threads", "total s", "400 POSTs of a task that waits 0.1 s: seconds until all is done (less is better)"),
    ("io-post-coroutines", "total s", "2,000 POSTs of a coroutine that waits 0.1 s: seconds (less is better)"),
    ("io-threads", "total s", "2,000 queued tasks that wait 0.1 s, 2 x 40 at a time: seconds (less is better)"),
)
WIDTH, LABELS, VALUES = 780, 250, 80  # pixels: all of it, the names' column, the numbers' column
BAR, GAP, TITLE = 18, 6, 40
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .bar { fill: #8c959f } .ours { fill: #0969da }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .bar { fill: #6e7681 } .ours { fill: #4493f8 } }
"""


def svg(scenarios: Mapping[str, Any]) -> str:
    """The chart of what has been measured (the JSON's `scenarios`)."""
    body: list[str] = []
    y = 0
    for scenario, figure, title in PANELS:
        if scenario in scenarios:
            rows = _rows(scenarios[scenario]["medians"], figure)
            body += _panel(rows, title, y)
            y += TITLE + len(rows) * (BAR + GAP)
    size = f'width="{WIDTH}" height="{y + GAP}" viewBox="0 0 {WIDTH} {y + GAP}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<style>{STYLE}</style>'
    return "\n".join([head, *body, "</svg>\n"])


def _rows(medians: Mapping[str, Any], figure: str) -> list[tuple[str, float, str]]:
    rows = [(found["title"], found[figure], name) for name, found in medians.items() if found.get(figure)]
    return sorted(rows, key=lambda row: row[1], reverse=not figure.endswith((" ms", " s")))  # the best first


def _panel(rows: list[tuple[str, float, str]], title: str, top: int) -> Iterator[str]:
    yield f'<text class="title" x="0" y="{top + TITLE - 14}">{escape(title)}</text>'
    largest = max(value for _, value, _ in rows)
    for number, (label, value, name) in enumerate(rows):
        y = top + TITLE + number * (BAR + GAP)
        width = max(1.0, (WIDTH - LABELS - VALUES) * value / largest)
        kind = "ours" if name.startswith("notifier") else ""
        yield f'<text x="{LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>'
        yield f'<rect class="bar {kind}" x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        digits = 0 if value >= 100 else 1 if value >= 10 else 2  # noqa: PLR2004 - three digits say enough
        yield f'<text x="{LABELS + width + 6:.1f}" y="{y + 14}">{value:,.{digits}f}</text>'
