"""``python -m benchmarks``: measures everything, prints the table, writes RESULTS.md and chart.svg.
``--only WORD`` runs the groups with the word in their name, ``--list`` names them; neither writes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import chart, flat, idle, lateness, report, restart, sizes, throughput, web, wheel
from .alone import NotMeasured
from .report import Row
from .scale import Scale

HERE = Path(__file__).parent
ROUNDS = 5

GROUPS: dict[str, Callable[[Scale], Iterator[Row]]] = {
    "memory": throughput.memory,
    "sqlite FULL": throughput.sqlite_full,
    "sqlite NORMAL": throughput.sqlite_normal,
    "8 producers": throughput.sqlite_producers,
    "enqueue many": throughput.many,
    "draining a backlog": throughput.drain,
    "lateness": lateness.idle,
    "lateness under load": lateness.loaded,
    "the wheel": wheel.rows,
    "restart": restart.rows,
    "web requests while jobs run": web.meanwhile,
    "idle": idle.rows,
    "a view that enqueues": web.enqueueing,
    "bytes on the disk": sizes.disk,
    "import and init_app": sizes.importing,
    "flat however full the file is": flat.rows,
}


def measure(name: str, scale: Scale) -> list[Row]:
    """The rows of one group, printed as they come; if the group fails, a last row says so."""
    rows = []
    try:
        for row in GROUPS[name](scale):
            print(report.as_text(row), flush=True)
            rows.append(row)
    except Exception as error:  # any error goes into the table, and the other groups are measured
        reason = error if isinstance(error, NotMeasured) else repr(error)
        row = report.not_measured(name, "", "", reason)
        print(report.as_text(row), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure the requested groups."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="WORD", default="", help="groups with this in their name")
    parser.add_argument("--quick", action="store_true", help="does it work? (no figures to keep)")
    parser.add_argument("--list", action="store_true", help="name the groups")
    asked = parser.parse_args()
    names = [name for name in GROUPS if asked.only.lower() in name.lower()]
    if asked.list or not names:
        print("\n".join(GROUPS))
        sys.exit(not names)
    scale, began, groups = Scale(asked.quick), time.monotonic(), []
    print(report.heading(), flush=True)
    for name in names:
        group_began = time.monotonic()
        groups.append((name, measure(name, scale)))
        print(f"{name}: {time.monotonic() - group_began:.0f} s", file=sys.stderr, flush=True)
    took = time.monotonic() - began
    every = [row for _, rows in groups for row in rows]
    print(f"\n{report.summary(every)}, in {took / 60:.1f} minutes")
    if names == list(GROUPS) and not asked.quick:
        spread = f"{report.millis(min(throughput.COMMITS))} to {report.millis(max(throughput.COMMITS))}"
        (HERE / "RESULTS.md").write_text(report.page(groups, spread, ROUNDS, took))
        (HERE / "chart.svg").write_text(chart.draw(every))
        print(f"written: {HERE / 'RESULTS.md'} and chart.svg")


if __name__ == "__main__":
    main()
