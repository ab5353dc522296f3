"""What four workers without work cost: processor time and wake-ups, as the kernel counts them.
The processes run side by side: each sleeps nearly all the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from . import ours
from .alone import NotMeasured, alone
from .peers import make_sqlite_huey, start_huey
from .report import Row, millis, not_measured
from .scale import Scale

SETTLE = 3.0
"""Seconds between the first job and the begin of the measurement."""
ROUNDS = 3


def delayq(folder: Path, seconds: float) -> list[float]:
    _app, delayq, task = ours.make(ours.url_of(folder / "jobs.sqlite3"))
    delayq.start()
    task.enqueue(0, "warm").wait(20)
    return watch(seconds)


def huey(folder: Path, seconds: float) -> list[float]:
    library = make_sqlite_huey(folder)
    task = library.task()(ours.work)
    start_huey(library)
    task(0, "warm").get(blocking=True, timeout=20)
    return watch(seconds)


def watch(seconds: float) -> list[float]:
    """Processor seconds and wake-ups of this process within this many seconds."""
    time.sleep(SETTLE)
    used, woken = time.process_time(), wake_ups()
    time.sleep(seconds)
    return [time.process_time() - used, wake_ups() - woken]


def wake_ups() -> int:
    """How often the threads of this process have slept so far, as the kernel counts it."""
    total = 0
    for status in Path("/proc/self/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def rows(scale: Scale) -> Iterator[Row]:
    seconds, rounds = scale.seconds(10), scale.rounds(ROUNDS)
    how = (
        f"4 workers, sqlite, nothing to do for {seconds:g} s, from {SETTLE:g} s after one job: "
        f"processor time of the process and the sum of voluntary context switches of its threads "
        f"(/proc/self/task/*/status); Huey: SqliteHuey and its consumer of 4 threads at its defaults. "
        f"{rounds} processes of each, side by side."
    )
    work, words = f"idle for {seconds:g} s, 4 workers", ("processor time", "wake-ups")
    targets = ("<= 1/4", "< 3/s")
    with ThreadPoolExecutor(2 * rounds) as pool:
        asked = [
            pool.submit(alone, one, seconds=seconds) for _ in range(rounds) for one in (delayq, huey)
        ]
    try:
        figures = [one.result() for one in asked]
    except NotMeasured as reason:
        for word, target in zip(words, targets, strict=True):
            yield not_measured(f"{work}: {word}", "Huey consumer", target, reason, how)
        return
    used, woken = _medians(figures[0::2])
    huey_used, huey_woken = _medians(figures[1::2])
    yield Row(
        f"{work}: {words[0]}",
        "Huey consumer, SqliteHuey",
        millis(used),
        millis(huey_used),
        f"{used / huey_used:.2f} x",
        targets[0],
        used <= huey_used / 4,
        how,
        gain=huey_used / used,
        goal=4,
    )
    yield Row(
        f"{work}: {words[1]}",
        "Huey consumer, SqliteHuey",
        f"{woken / seconds:.1f}/s",
        f"{huey_woken / seconds:.1f}/s",
        f"{woken / seconds:.1f}/s",
        targets[1],
        woken / seconds < 3,
        how,
    )


def _medians(figures: list[list[float]]) -> tuple[float, float]:
    return median(used for used, _ in figures), median(woken for _, woken in figures)
