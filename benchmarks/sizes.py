"""The bytes of a pending job on the disk; the time of an import and of ``init_app``.
The bytes of a pending job in memory are measured in ``wheel``."""

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


def fill(folder: Path, path: str, count: int) -> None:
    """Store delayed jobs as an app does: 10,000 per call, due within a day, not in order."""
    _app, _delayq, task = ours.make(ours.url_of(Path(path)))
    chunk = min(count, 10_000)
    for start in range(0, count, chunk):
        delay = 3600 + (start * 7919) % 86_400
        task.options().enqueue_many([(n, "text") for n in range(start, start + chunk)], delay=delay)


def disk(scale: Scale) -> Iterator[Row]:
    count = scale.count(100_000)
    how = (
        f"{count:,} jobs with the arguments `(n, 'text')` by `enqueue_many(..., delay=...)` into an "
        f"empty file; its size once the WAL is written back, indexes and all, by the number of jobs."
    )
    work = "bytes on the disk of a pending job"
    with tempfile.TemporaryDirectory(prefix="delayq-bench-") as folder:
        path = Path(folder, "jobs.sqlite3")
        try:
            alone(fill, path=str(path), count=count)
            size = alone(size_of, path=str(path)) / count
        except NotMeasured as reason:
            yield not_measured(work, "-", "stated", reason, how)
            return
    yield Row(work, "-", f"{size:.0f} B", "", f"{size:.0f} B", "stated", None, how)


def size_of(folder: Path, path: str) -> int:
    """Bytes of a store that no process has open."""
    import apsw

    connection = apsw.Connection(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return Path(path).stat().st_size


def start_up(folder: Path) -> list[float]:
    """Seconds of ``import flask_delayq`` after Flask's own, and of ``init_app``."""
    from flask import Flask

    app = Flask("bench")
    began = time.perf_counter()
    import flask_delayq

    imported = time.perf_counter()
    delayq = flask_delayq.DelayQ()
    made = time.perf_counter()
    delayq.init_app(app)
    return [imported - began, time.perf_counter() - made]


def importing(scale: Scale) -> Iterator[Row]:
    rounds = scale.rounds(11)
    runs = in_turn(rounds, {"ours": lambda: alone(start_up)})["ours"]
    how = (
        f"{rounds} new processes: `import flask`, then the seconds of `import flask_delayq` and of "
        f"`DelayQ().init_app(app)`; medians."
    )
    for index, (work, limit) in enumerate(
        (("import flask_delayq, beyond Flask", 0.06), ("init_app", 0.005))
    ):
        target = f"< {millis(limit)}"
        if isinstance(runs, NotMeasured):
            yield not_measured(work, "-", target, runs, how)
            continue
        taken = median(run[index] for run in runs)
        yield Row(work, "-", millis(taken), "", millis(taken), target, taken < limit, how)
