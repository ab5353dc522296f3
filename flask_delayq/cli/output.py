"""Output on a terminal: escaped text, tables, exact JSON.
Knows no job and no store."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from ..clock import Clock
from ..console.presenting import duration, seconds_of
from ..texts import visible


def safe(text: object, *, lines: bool = False) -> str:
    """A text that cannot control the terminal: control and format characters (escape sequences, bidi
    marks) and lone surrogates are escaped.

    :param lines: keep line breaks.
    """
    return visible(str(text), lines=lines)


def say(text: str = "") -> None:
    """Print one escaped line on stdout."""
    click.echo(safe(text))


def say_json(data: Any) -> None:
    """Print data as exact JSON: everything but printable ASCII is escaped by JSON's rules."""
    click.echo(json.dumps(data, indent=2))


WIDTH = 80
"""The maximum width of a table in columns."""

NARROWEST = 12
"""The minimum width of a shortened cell in columns."""

_COLOURS = {
    **dict.fromkeys(("failed", "failing", "dead"), "red"),
    **dict.fromkeys(("retrying", "paused"), "yellow"),
    **dict.fromkeys(("completed", "ok"), "green"),
    "running": "cyan",
}
"""The colours of states on a terminal."""


def painted(text: str, word: str) -> str:
    """The text in the colour of that word, only on a terminal and without ``NO_COLOR``."""
    colour = _COLOURS.get(word)
    return click.style(text, fg=colour) if colour and _takes_colours() else text


def _takes_colours() -> bool:
    return _on_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def common_prefix(names: Sequence[str]) -> str:
    """The common prefix of all dotted names, up to a dot; ``""`` for fewer than two names."""
    prefix = ""
    if len(set(names)) > 1:
        for words in zip(*(name.split(".")[:-1] for name in names), strict=False):
            if len(set(words)) > 1:
                break
            prefix += words[0] + "."
    return prefix


def say_table(
    head: Sequence[str], rows: Sequence[Sequence[object]], empty: str, *, cut: int | None = None
) -> None:
    """Rows under a head, each column as wide as its widest cell; ``empty`` where there are no rows.

    :param cut: the column whose cells are shortened if lines would be longer than :data:`WIDTH`.
    """
    if not rows:
        say(empty)
        return
    cells = [["-" if cell is None else safe(cell) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    if cut is not None and (surplus := sum(widths) + 2 * len(widths) - 2 - WIDTH) > 0:
        widths[cut] = max(NARROWEST, widths[cut] - surplus)
        for line in cells:
            if len(line[cut]) > widths[cut]:
                line[cut] = line[cut][: widths[cut] - 3] + "..."
    for line in cells:
        padded = "  ".join(
            painted(cell, cell) + " " * (width - len(cell))
            for cell, width in zip(line, widths, strict=True)
        )
        click.echo(padded.rstrip())


def relative(moment: str | None, clock: Clock) -> str | None:
    """A time as ``"5 s ago"`` or ``"in 2 h"``."""
    if moment is None:
        return None
    age = clock.now() - seconds_of(moment)
    return f"{duration(age)} ago" if age >= 0 else f"in {duration(-age)}"
