"""What a terminal gets: safe texts, tables, exact JSON.
Knows no job and no store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from ..clock import Clock
from ..console.presenting import duration, seconds_of
from ..texts import visible


def safe(text: object, *, lines: bool = False) -> str:
    """A text that cannot steer the terminal: control and format characters (escape sequences, bidi
    marks) become visible escapes, and so do lone surrogates.

    :param lines: leave line breaks as they are.
    """
    return visible(str(text), lines=lines)


def say(text: str = "") -> None:
    """One line on stdout, made safe."""
    click.echo(safe(text))


def say_json(data: Any) -> None:
    """Data as JSON, exact: everything but printable ASCII is escaped as JSON does it."""
    click.echo(json.dumps(data, indent=2))


def say_table(head: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Rows under a head, each column as wide as its widest cell; ``empty`` where there are no rows."""
    if not rows:
        say(empty)
        return
    cells = [list(head), *([("-" if cell is None else safe(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def relative(moment: str | None, clock: Clock) -> str | None:
    """A moment as ``"5 s ago"`` or ``"in 2 h"``."""
    if moment is None:
        return None
    age = clock.now() - seconds_of(moment)
    return f"{duration(age)} ago" if age >= 0 else f"in {duration(-age)}"
