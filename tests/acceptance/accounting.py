"""What really happened to every job, by the notes of the processes; and whether that keeps the promise.

It must not know how the store or the runtime work, only what they promise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import apsw

UNRECORDED = 2.0
"""Seconds for which a run that had ended may still not be written down when its process is killed."""


class Ack(NamedTuple):
    """A job whose enqueue returned."""

    run_at: float
    failures: int


class Run(NamedTuple):
    """One run of a job; moments are monotonic, which all processes share, except ``wall``."""

    job: str
    attempt: int
    process: str
    began: float
    wall: float
    ended: float | None


class Row(NamedTuple):
    """A job as the store has it in the end."""

    state: int
    attempt: int
    rescues: int
    run_at: float
    task: str


STATES = ("waiting", "running", "completed", "failed", "cancelled")
COMPLETED, FAILED = 2, 3


class Account:
    """All notes in a folder.

    :param deaths: by process, when it was killed; those that ended themselves have noted it.
    :param only: only of processes whose names begin so.
    """

    def __init__(self, folder: Path, deaths: Mapping[str, float] | None = None, only: str = "") -> None:
        self.deaths = dict(deaths or {})
        self.acks: dict[str, Ack] = {}
        self.runs: dict[str, list[Run]] = defaultdict(list)
        self.events: list[tuple[str, str, list[str]]] = []
        """Everything else: process, event, its words."""
        for path in sorted(folder.glob(f"{only}*.notes")):
            self._read(path)
        for runs in self.runs.values():
            runs.sort(key=lambda run: run.began)

    def _read(self, path: Path) -> None:
        open_runs: dict[tuple[str, str, str], Run] = {}
        ended: list[Run] = []
        for line in path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue  # cut off by a kill
            event, mono, wall, *words = line.rstrip("\n").split("\t")
            if event == "ack":
                self.acks[words[0]] = Ack(float(words[1]), int(float(words[2])))
            elif event == "begin":
                key = (words[0], words[1], words[2])
                open_runs[key] = Run(words[0], int(words[1]), path.stem, float(mono), float(wall), None)
            elif event == "end":
                run = open_runs.pop((words[0], words[1], words[2]))
                ended.append(run._replace(ended=float(mono)))
            else:
                if event == "dies":
                    self.deaths.setdefault(path.stem, float(mono))
                self.events.append((path.stem, event, [mono, wall, *words]))
        for run in [*ended, *open_runs.values()]:
            self.runs[run.job].append(run)

    def noted(self, event: str) -> list[list[str]]:
        """The words of all events of a kind, their two moments first."""
        return [words for _, kind, words in self.events if kind == event]

    @property
    def repeated(self) -> int:
        """Runs on top of one for each attempt."""
        return sum(
            count - 1
            for runs in self.runs.values()
            for count in Counter(run.attempt for run in runs).values()
        )

    def faults(self, rows: Mapping[str, Row]) -> list[str]:
        """Every way in which the promise was broken; empty if it was kept.

        :param rows: what the store holds in the end, by id.
        """
        faults = [f"{job}: acknowledged and lost" for job in self.acks if job not in rows]
        faults += [f"{job}: ran, but is in no store" for job in self.runs if job not in rows]
        faults += [f"an error reached a caller: {words[2]}" for words in self.noted("trouble")]
        for job, row in rows.items():
            faults += [f"{job}: {fault}" for fault in self._faults_of(job, row)]
        return faults

    def _faults_of(self, job: str, row: Row) -> list[str]:
        if row.state < COMPLETED:
            return [f"stuck as {STATES[row.state]}"]
        runs = self.runs.get(job, [])
        ack = self.acks.get(job)
        faults = []
        if row.state != COMPLETED and row.task in ("work", "beat"):
            faults.append(f"ended as {STATES[row.state]}")
        if row.state == COMPLETED and (not runs or runs[-1].ended is None):
            faults.append("completed, but did not run to its end")
        if ack is not None and row.state == COMPLETED and row.attempt != ack.failures + 1:
            faults.append(f"took {row.attempt} attempts instead of {ack.failures + 1}")
        # A retry clears the count of rescues, so it tells all of them in a first attempt only.
        if row.attempt <= 1 and len(runs) > row.attempt + row.rescues:
            faults.append(f"ran {len(runs)} times: {row.attempt} attempts, {row.rescues} rescues")
        if row.state == COMPLETED and {run.attempt for run in runs} != set(range(1, row.attempt + 1)):
            faults.append(f"attempts {[run.attempt for run in runs]} ran, {row.attempt} are stored")
        due = ack.run_at if ack else row.run_at if row.task == "beat" else 0.0  # a retry moves run_at
        if runs and runs[0].wall < due:
            faults.append(f"ran {due - runs[0].wall:.4f} s before it was due")
        for run, following in pairwise(runs):
            faults += self._faults_between(run, following)
        return faults

    def _faults_between(self, run: Run, following: Run) -> list[str]:
        died = self.deaths.get(run.process)
        until = run.ended if run.ended is not None else died
        if until is None:
            return [f"its run in {run.process} never ended, and it ran again in {following.process}"]
        faults = []
        if following.began < until:
            faults.append(f"ran in {run.process} and {following.process} at the same time")
        if following.attempt < run.attempt:
            faults.append(f"attempt {following.attempt} ran after attempt {run.attempt}")
        if following.attempt == run.attempt:
            if died is None:
                faults.append(f"attempt {run.attempt} ran twice, but {run.process} was not killed")
            elif run.ended is not None and died - run.ended > UNRECORDED:
                faults.append(f"attempt {run.attempt} ran twice, {died - run.ended:.1f} s after its end")
        return faults


def rows_of(store: Path) -> dict[str, Row]:
    """All jobs of a store that nobody has open, once SQLite finds the file sound."""
    with closing(apsw.Connection(str(store))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = connection.execute("SELECT id, state, attempt, rescues, run_at, task FROM job")
        return {row[0]: Row(*row[1:]) for row in found}
