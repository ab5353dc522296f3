"""A start with 1,000,000 pending jobs in the file: the time to the first run, and the memory.
The file is made once; each start is a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from . import ours
from .alone import NotMeasured, alone, in_turn
from .report import Row, millis, not_measured
from .scale import Scale
from .store_file import multiply, need_room

HOUR = 3600.0
WATCH = 6.0
"""Seconds for which the memory is measured."""


def start(folder: Path, path: str, watch: float) -> dict[str, float]:
    """Seconds from ``start()`` to the first run, and the largest growth of the process in bytes."""
    ran: list[float] = []

    def work(number: int, text: str) -> int:
        ran.append(time.perf_counter())
        return ours.work(number, text)

    _app, delayq, _ = ours.make(ours.url_of(Path(path)), work)

    before = resident()
    began = time.perf_counter()
    delayq.start()
    ours.until(lambda: bool(ran), pause=0.0005)
    most = resident()
    while time.perf_counter() < began + watch:
        most = max(most, resident())
        time.sleep(0.02)
    delayq.stop(2)
    return {"first": ran[0] - began, "bytes": float(most - before)}


def resident() -> int:
    """Bytes of memory that this process holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise NotMeasured("needs /proc/self/status")


def rows(scale: Scale) -> Iterator[Row]:
    pending = scale.count(1_000_000)
    with tempfile.TemporaryDirectory(prefix="delayq-bench-") as made:
        need_room(Path(made), 2)
        path = str(Path(made, "jobs.sqlite3"))
        like = alone(ours.store_one, path=path, delay=2 * HOUR)
        due = time.time() + 180  # none is due before the last start has been measured
        alone(multiply, path=path, like=like, count=pending, due=due, every=HOUR / pending, limit=120)

        def once() -> dict[str, float]:
            alone(ours.store_one, path=path)
            figures: dict[str, float] = alone(start, path=path, watch=scale.seconds(WATCH))
            return figures

        runs = in_turn(scale.rounds(3), {"ours": once})["ours"]
    work = f"restart with {pending:,} pending jobs in the file"
    how = (
        f"sqlite, {pending:,} delayed jobs, due one after the other within an hour (as many as the "
        f"wheel takes are read into it), and one due job: seconds from `delayq.start()` in a new "
        f"process to the moment its function begins; resident memory at most within {WATCH:g} s, less "
        f"what it was before the start. 3 rounds."
    )
    if isinstance(runs, NotMeasured):
        yield not_measured(f"{work}: first due run", "-", "< 1 s", runs, how)
        yield not_measured(f"{work}: extra memory", "-", "< 60 MB", runs, how)
        return
    first, size = (median(run[name] for run in runs) for name in ("first", "bytes"))
    text = f"{size / 1e6:.1f} MB"
    yield Row(f"{work}: first due run", "-", millis(first), "", millis(first), "< 1 s", first < 1, how)
    yield Row(f"{work}: extra memory", "-", text, "", text, "< 60 MB", size < 60e6, how)
