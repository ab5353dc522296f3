"""Draws the rows that have a peer as bars on a log scale: an SVG for light and dark pages.
Knows rows, not how they were measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from html import escape
from itertools import groupby

from .report import Row, figure

WIDTH = 1120
LEFT = 590
"""Where the plot begins; the names are to the left of it."""
PEER = 344
"""Where the names of the peers begin."""
RIGHT = 88
"""Space for the figure of the longest bar."""
TOP = 104
LINE = 26
GAP = 12
"""The space between two kinds of work."""
BAR = 14
MARGIN = 20

STYLE = """
svg { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  --paper: #ffffff; --ink: #1f2328; --soft: #59636e; --grid: #d8dee4;
  --equal: #59636e; --stripe: #f6f8fa; --pass: #1a7f64; --short: #bc4c00; --stated: #7d8fa3; }
@media (prefers-color-scheme: dark) { svg {
  --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1; --grid: #262c34;
  --equal: #9198a1; --stripe: #151b23; --pass: #3fb68b; --short: #f0883e; --stated: #6e7f91; } }
.paper { fill: var(--paper); } .stripe { fill: var(--stripe); } text { fill: var(--ink); }
.title { font-size: 19px; font-weight: 600; } .soft { fill: var(--soft); }
.grid { stroke: var(--grid); } .equal { stroke: var(--equal); stroke-width: 1.5; }
.pass { fill: var(--pass); } .short { fill: var(--short); } .stated { fill: var(--stated); }
.goal { stroke: var(--ink); stroke-width: 2.5; }
.value { font-weight: 600; font-variant-numeric: tabular-nums; }
.axis { text-anchor: middle; fill: var(--soft); font-size: 12px; }
"""


def draw(rows: Iterable[Row]) -> str:
    """The chart of the rows that can be compared with a peer."""
    shown = [row for row in rows if row.gain]
    scale = Scale([value for row in shown for value in (row.gain, row.goal) if value])
    # Layers: the lines of the axis must be above the stripes, but below the bars and figures.
    stripes, bars, goals, y = [], [], [], TOP
    for index, (work, group) in enumerate(groupby(shown, key=lambda row: _short(row.work))):
        some = list(group)
        high = LINE * len(some) + GAP
        if index % 2 == 0:
            stripes.append(f'<rect class="stripe" x="0" y="{y}" width="{WIDTH}" height="{high}"/>')
        bars.append(_text(MARGIN, y + GAP / 2 + 17, work))
        for number, row in enumerate(some):
            top = y + GAP / 2 + LINE * number
            bars.append(_bar(row, scale, top))
            goals.append(_goal(row, scale, top))
        y += high
    high = y + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" '
        f'height="{high}" role="img" aria-label="Flask-DelayQ beside its peers">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{high}"/>',
        *(*_head(), *stripes, *_axis(scale, y), *bars, *filter(None, goals)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


class Scale:
    """The position of a ratio: a log scale, from a round figure below all to a round one above all."""

    def __init__(self, values: list[float]) -> None:
        self._low = math.log10(min([0.5, *values]) * 0.9)
        self._high = math.log10(max([10.0, *values]) * 1.1)

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def marks(self) -> list[float]:
        """1, 2 and 5 of each decade that is shown; if there are many decades, only the 1."""
        steps = (1, 2, 5) if self._high - self._low < 3 else (1,)
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        every = [step * 10.0**decade for decade in decades for step in steps]
        return [value for value in every if self._low <= math.log10(value) <= self._high]


def _head() -> list[str]:
    y = 62
    legend = [_text(MARGIN, y, "how many times as good as the peer, log scale", "soft")]
    x = LEFT - 240
    for name, words in (("pass", "target reached"), ("short", "falls short"), ("stated", "no target")):
        legend.append(f'<rect class="{name}" x="{x}" y="{y - 11}" width="14" height="12" rx="2"/>')
        legend.append(_text(x + 20, y, words))
        x += 46 + 7 * len(words)
    legend.append(f'<line class="goal" x1="{x + 4}" x2="{x + 4}" y1="{y - 14}" y2="{y + 4}"/>')
    legend.append(_text(x + 14, y, "to reach"))
    return [f'<text class="title" x="{MARGIN}" y="34">Flask-DelayQ beside its peers</text>', *legend]


def _axis(scale: Scale, bottom: float) -> list[str]:
    lines = []
    for value in scale.marks():
        x = round(scale.at(value), 1)
        kind = "equal" if value == 1 else "grid"
        words = "equal" if value == 1 else f"{value:g}x"
        lines.append(
            f'<line class="{kind}" x1="{x}" x2="{x}" y1="{TOP - 4}" y2="{bottom}" opacity="0.8"/>'
        )
        lines.append(f'<text class="axis" x="{x}" y="{TOP - 10}">{words}</text>')
    return lines


def _bar(row: Row, scale: Scale, y: float) -> str:
    assert row.gain is not None
    kind = {True: "pass", False: "short", None: "stated"}[row.passed]
    start, end = sorted((scale.at(1), scale.at(row.gain)))
    after = max(end, scale.at(row.goal) if row.goal else 0) + 8
    short = " short" if row.passed is False else ""
    bar = (
        f'<rect class="{kind}" x="{start:.1f}" y="{y + 6:.1f}" width="{max(end - start, 1):.1f}" '
        f'height="{BAR}" rx="2"/>'
    )
    value = f'<text class="value{short}" x="{after:.1f}" y="{y + 17:.1f}">{figure(row.gain)}x</text>'
    return f"{_text(PEER, y + 17, row.beside, 'soft')}{bar}{value}"


def _goal(row: Row, scale: Scale, y: float) -> str:
    if not row.goal:
        return ""
    x = f"{scale.at(row.goal):.1f}"
    return f'<line class="goal" x1="{x}" x2="{x}" y1="{y + 2:.1f}" y2="{y + BAR + 10:.1f}"/>'


def _short(work: str) -> str:
    return re.sub(r" \(.*?\)", "", work)


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:g}" y="{y:g}">{escape(words)}</text>'
