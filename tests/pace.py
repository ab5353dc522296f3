"""How fast this machine is at the moment: converts seconds to those of a quiet machine.

It must not know what is measured. A separate process does a little work, sleeps and writes to the disk
ten times a second, and records how long each took. So it sees whatever slows down the tests.
"""

from __future__ import annotations

import bisect
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

SLEEP = 0.1
"""Seconds between two samples."""

DISK = 0.01
"""Seconds that a disk may need for a small write which must be durable."""

WORK = 0.003
"""Seconds of CPU time that a sample takes."""


class Sample(NamedTuple):
    """One turn of the measuring process; all in seconds, ``ended`` is a monotonic moment."""

    ended: float
    cpu: float
    work: float
    slept: float
    wrote: float


def ended_at(sample: Sample) -> float:
    return sample.ended


class Pace:
    """Reads the samples of the measuring process.

    :param notes: the file of the samples.
    """

    def __init__(self, notes: Path) -> None:
        self._file = notes.open("rb")
        self._rest = b""
        self._samples: list[Sample] = []

    def quiet_seconds(self, began: float, ended: float | None = None) -> float:
        """The seconds between two monotonic moments, converted to those of a quiet machine: fewer than
        on the clock while others use the processors or the disk, else the same.

        :param ended: default: now.
        """
        now = time.monotonic()
        until = now if ended is None else ended
        self._read()
        # A sample that ended soon after the window has measured a part of it.
        first = bisect.bisect_left(self._samples, began, key=ended_at)
        last = bisect.bisect_right(self._samples, until + SLEEP + WORK, key=ended_at)
        seen = self._samples[first:last]
        work, cpu = sum(s.work for s in seen), sum(s.cpu for s in seen)
        waited = sum(s.slept + s.wrote for s in seen)
        planned = sum(min(s.slept, SLEEP) + min(s.wrote, DISK) for s in seen)
        if until >= now - SLEEP:  # the process may be suspended right now
            silent = max(0.0, until - max(self._samples[-1].ended if self._samples else 0.0, began))
            waited += silent
            planned += min(silent, SLEEP + DISK + WORK)
        rate = min(cpu / work if work else 1.0, planned / waited if waited else 1.0, 1.0)
        return (until - began) * rate

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        self._samples += [Sample(*map(float, line.split())) for line in lines]

    def close(self) -> None:
        self._file.close()


_current: Pace | None = None


def quiet_seconds(began: float, ended: float | None = None) -> float:
    """See :meth:`Pace.quiet_seconds`; the clock's seconds if nothing is measured."""
    if _current is None:
        return (time.monotonic() if ended is None else ended) - began
    return _current.quiet_seconds(began, ended)


@contextmanager
def measured(folder: Path) -> Iterator[Pace]:
    """Measure during a block, with files in a folder on the disk that the tests use."""
    global _current
    if _current is not None:  # another folder of tests in the same run measures
        yield _current
        return
    notes = folder / "pace"
    notes.touch()
    process = subprocess.Popen([sys.executable, "-S", "-E", __file__, str(notes)])
    _current = Pace(notes)
    try:
        yield _current
    finally:
        process.kill()
        process.wait()
        _current.close()
        _current = None


# --- the process that measures -----------------------------------------------------------------------


def work() -> float:
    """Use the processor for a while; returns the CPU time that it took."""
    began = time.thread_time()
    while (used := time.thread_time() - began) < WORK:
        pass
    return used


def main(notes: str) -> None:
    parent = os.getppid()
    lines = os.open(notes, os.O_WRONLY | os.O_APPEND)
    disk = os.open(f"{notes}.disk", os.O_WRONLY | os.O_CREAT, 0o600)
    while os.getppid() == parent:
        began = time.monotonic()
        time.sleep(SLEEP)
        woke = time.monotonic()
        cpu = work()
        worked = time.monotonic()
        os.pwrite(disk, b"x" * 4096, 0)
        os.fsync(disk)
        ended = time.monotonic()
        facts = (ended, cpu, worked - woke, woke - began, ended - worked)
        os.write(lines, (" ".join(map(repr, facts)) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1])
