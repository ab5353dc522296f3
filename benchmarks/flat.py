"""Whether throughput is independent of the number of waiting or finished jobs in the file.
Every file is measured in turn with a nearly empty one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from . import ours
from .alone import NotMeasured, alone, in_turn
from .report import Row, not_measured, per_second
from .scale import Scale
from .store_file import forget, multiply, need_room

TOMORROW = 86_400.0
SIZES = (1_000, 10_000, 100_000, 1_000_000)
FINISHED = 5_000_000
TARGET = "within 20 %"


def through(folder: Path, path: str, count: int) -> float:
    """Jobs per second end to end, in a file that may hold other jobs already."""
    _app, delayq, task = ours.make(
        ours.url_of(Path(path)),
        DELAYQ_SQLITE_SYNCHRONOUS="NORMAL",
        DELAYQ_RETENTION=1000 * TOMORROW,
        DELAYQ_RETENTION_COUNT=None,
    )
    delayq.start()
    first = task.enqueue(0, "warm").wait(60)
    began = time.perf_counter()
    jobs = [task.enqueue(number, "text") for number in range(count)]
    ours.until(lambda: bool(jobs[-1].refresh().is_final))
    # This reads only the newest jobs, so it costs the same in any file; `counts()` would count millions.
    ours.until(lambda: all(job.state == "completed" for job in delayq.jobs(limit=count)))
    rate = count / (time.perf_counter() - began)
    ours.check(jobs)
    delayq.stop()
    forget(path, first.id)
    return rate


class File:
    """A store that grows."""

    def __init__(self, folder: str, name: str) -> None:
        self.path = str(Path(folder, f"{name}.sqlite3"))
        self.waiting = self.number = 0

    def finish(self, count: int) -> None:
        """Add completed jobs."""
        self._multiply(alone(ours.complete_one, path=self.path), count)

    def wait(self, count: int) -> None:
        """Add waiting jobs, due tomorrow, until there are so many."""
        like = alone(ours.store_one, path=self.path, delay=TOMORROW)
        self._multiply(like, count - self.waiting, due=time.time() + TOMORROW, every=0.001)
        self.waiting = count

    def _multiply(self, like: str, count: int, **more: Any) -> None:
        alone(multiply, path=self.path, like=like, count=count, first=self.number + 1, limit=240, **more)
        self.number += count


def rows(scale: Scale) -> Iterator[Row]:
    count, finished = scale.count(6_000), scale.count(FINISHED)
    sizes = [scale.count(size) for size in SIZES]
    how = (
        f"sqlite NORMAL, 1 producer, 4 workers, {count:,} jobs end to end in a file that holds so "
        f"many jobs due tomorrow and so many completed ones (made by one INSERT ... SELECT a table), "
        f"in turn with the same in a file of {sizes[0]:,} waiting and no finished ones. NORMAL, so "
        f"that the disk's flushing does not hide a difference."
    )
    with tempfile.TemporaryDirectory(prefix="delayq-bench-") as folder:
        need_room(Path(folder), 5)
        reference = File(folder, "reference")
        reference.wait(sizes[0])
        for name, done in (("few", 0), ("many", finished)):
            file = File(folder, name)
            if done:
                file.finish(done)
            for size in dict.fromkeys(sizes):
                if size == sizes[0] and not done:
                    continue  # the reference
                file.wait(size)
                yield _row(file, reference, size, done, count, scale.rounds(5), how)
            Path(file.path).unlink()


def _row(
    file: File, reference: File, waiting: int, finished: int, count: int, rounds: int, how: str
) -> Row:
    runs = in_turn(
        rounds,
        {
            "this": lambda: alone(through, path=file.path, count=count),
            "reference": lambda: alone(through, path=reference.path, count=count),
        },
    )
    work = f"throughput with {waiting:,} waiting, {finished:,} finished"
    beside = f"{reference.waiting:,} waiting, 0 finished"
    mine, theirs = runs["this"], runs["reference"]
    for given in (mine, theirs):
        if isinstance(given, NotMeasured):
            return not_measured(work, beside, TARGET, given, how)
    assert isinstance(mine, list) and isinstance(theirs, list)
    ratio = median(a / b for a, b in zip(mine, theirs, strict=True))
    rates = [per_second(median(given)) for given in (mine, theirs)]
    return Row(work, beside, *rates, f"{ratio - 1:+.0%}", TARGET, abs(ratio - 1) <= 0.2, how)
