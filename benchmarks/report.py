"""One line of the table; the table on the terminal and in RESULTS.md.
Knows how to show figures, not how they were measured."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from .alone import NotMeasured, Runs

PACKAGES = (
    *("flask", "apsw", "msgspec", "apscheduler", "dramatiq", "flask-executor", "huey"),
    *("litequeue", "persist-queue", "rq", "redis", "gunicorn"),
)


@dataclass(frozen=True)
class Row:
    """One line: the work, the peer, the two figures, and whether the target was met."""

    work: str
    beside: str
    ours: str
    peer: str
    outcome: str
    """The figure to compare with the target."""
    target: str
    passed: bool | None
    """``None``: there is no target, only a figure."""
    run: str
    """What was run, so that a reader can repeat it."""
    gain: float | None = None
    """How many times better than the peer; for the chart."""
    goal: float | None = None
    """The gain that meets the target."""
    missing: str = ""
    """Why it was not measured."""

    @property
    def mark(self) -> str:
        if self.missing:
            return f"not measured: {self.missing}"
        return {None: "stated", True: "pass", False: "falls short"}[self.passed]


def not_measured(work: str, beside: str, target: str, reason: object, run: str = "") -> Row:
    """A line for work that could not be measured."""
    return Row(work, beside, "", "", "", target, None, run, missing=str(reason))


def compare(
    work: str,
    beside: str,
    ours: Runs,
    peer: Runs,
    *,
    at_least: float | None,
    run: str,
    show: Callable[[float], str],
    lower_is_better: bool = False,
) -> Row:
    """A line for two series of runs in turn; the ratio is the median of the ratios of the pairs.

    :param at_least: how many times better ours should be; ``None``: there is no target.
    """
    target = "stated" if at_least is None else f">= {at_least:g} x"
    for runs in (ours, peer):
        if isinstance(runs, NotMeasured):
            return not_measured(work, beside, target, runs, run)
    assert isinstance(ours, list) and isinstance(peer, list)
    pairs = zip(ours, peer, strict=True)
    ratio = median((b / a if lower_is_better else a / b) for a, b in pairs)
    return Row(
        work,
        beside,
        show(median(ours)),
        show(median(peer)),
        f"{figure(ratio)} x",
        target,
        None if at_least is None else ratio >= at_least,
        run,
        gain=ratio,
        goal=at_least,
    )


def figure(value: float) -> str:
    """About three digits, in the way a person writes them."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return (
        f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
    )


def per_second(value: float) -> str:
    return f"{figure(value)}/s"


def millis(seconds: float) -> str:
    return f"{figure(seconds * 1e3)} ms"


def micros(seconds: float) -> str:
    return f"{figure(seconds * 1e6)} us"


# --- the terminal --------------------------------------------------------------------------------

_WIDTHS = (56, 32, 16, 16, 10, 22)


def _line(cells: Iterable[str]) -> str:
    *some, last = cells
    return "  ".join(cell.ljust(width) for cell, width in zip(some, _WIDTHS, strict=True)) + f"  {last}"


def heading() -> str:
    return _line(("work", "beside", "ours", "peer", "figure", "to reach", ""))


def as_text(row: Row) -> str:
    return _line((row.work, row.beside, row.ours, row.peer, row.outcome, row.target, row.mark))


def summary(rows: Iterable[Row]) -> str:
    """How many of the targets were reached."""
    rows = list(rows)
    passed, missed = (sum(row.passed is kind for row in rows) for kind in (True, False))
    stated = sum(row.passed is None and not row.missing for row in rows)
    missing = sum(bool(row.missing) for row in rows)
    return (
        f"{passed} pass, {missed} fall short, {stated} stated without a target, {missing} not measured"
    )


# --- the page ------------------------------------------------------------------------------------

INTRODUCTION = """\
How to read it: *ours* and *peer* are medians of the rounds. Both were run in turn (A B A B), each
run in a process and a folder of its own, {rounds} rounds unless the row says otherwise; a ratio is
the median of the paired ones, so it need not be the ratio of the two medians. Where *to reach* says
`>=`, the *figure* is how many times as good as the peer we are (jobs a second, or seconds saved):
above 1 is better than the peer. Where it says `<=`, the figure is our cost by the peer's: below 1
is better; where it names a unit, it is ours in that unit. Rows without a target are stated.

A job takes `(int, str)` and returns a value that is checked. "End to end" stops when a reader of
the store has seen every job completed. Four workers on each side, the same producers, the same
flushing to the disk; "FULL" flushes at every commit. Peers run with the defaults of their docs;
Huey's consumer runs in the producer's process, as our workers do. A run of a slow peer is short:
its rate is what counts.

Time of one commit (bare apsw, WAL, `FULL`) on this disk during this run: {commits}. All ratios of
FULL rows hang on it: the slower the disk, the more a commit that several jobs share is worth.

![ratios, ours beside the peers'](chart.svg)
"""


def page(groups: Iterable[tuple[str, list[Row]]], commits: str, rounds: int, took: float) -> str:
    """RESULTS.md."""
    groups = list(groups)
    lines = [
        "# Results",
        "",
        f"`make bench` on {time.strftime('%Y-%m-%d')} in {took / 60:.0f} minutes: "
        f"{summary(row for _, rows in groups for row in rows)}.",
        "",
        f"Machine: {machine()}.",
        f"Versions: {versions()}.",
        "",
        *INTRODUCTION.format(commits=commits, rounds=rounds).splitlines(),
    ]
    for name, rows in groups:
        lines += ["", f"## {name[0].upper()}{name[1:]}", ""]
        lines += [
            "| work | beside | ours | peer | figure | to reach | |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_markdown(row) for row in rows]
        lines += ["", f'Again: `python -m benchmarks --only "{name}"`.', *_what_was_run(rows)]
    return "\n".join(lines) + "\n"


def _markdown(row: Row) -> str:
    mark = f"**{row.mark}**" if row.passed is False or row.missing else row.mark
    cells = (row.work, row.beside, row.ours, row.peer, row.outcome, row.target, mark)
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _what_was_run(rows: list[Row]) -> list[str]:
    texts = dict.fromkeys(row.run for row in rows if row.run)  # several rows may share a text
    return [f"- {text}" for text in texts]


def machine() -> str:
    """Processor, cores, memory, system and Python, as far as they can be found."""
    facts = [_processor(), f"{len(os.sched_getaffinity(0))} cores", _memory()]
    facts += [f"Linux {platform.release()}", f"CPython {platform.python_version()}"]
    return ", ".join(filter(None, facts))


def _processor() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    words = _read("/proc/meminfo").split()
    return f"{int(words[1]) / 2**20:.0f} GiB" if len(words) > 1 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def versions() -> str:
    """The versions of the packages and programs that were measured."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    for program, argument in (("redis-server", "--version"), ("wrk", "--version")):
        found.append(f"{program} {_version_of(program, argument)}")
    return ", ".join(found)


def _version_of(program: str, argument: str) -> str:
    if shutil.which(program) is None:
        return "missing"
    said = subprocess.run([program, argument], capture_output=True, text=True, timeout=10, check=False)
    words: Any = (said.stdout + said.stderr).replace("v=", "").split()
    return next((word for word in words if word[:1].isdigit()), "?")
